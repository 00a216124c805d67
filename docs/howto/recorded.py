import logging
import re
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import trio
from bank import Bank, Transfer

from rabble_trio import ActorDown, FlightRecorder, open_node
from rabble_trio.testing.step import main as rabble_step


async def run(folder: Path) -> None:
    recorder = FlightRecorder(folder, only=["bank"])
    async with open_node("n1@127.0.0.1:0", recorder=recorder) as node:
        bank = await node.spawn("bank", Bank, restart="temporary")
        try:
            for target, amount in (("bob", 30), ("eve", 5), ("ann", 10)):
                await node.ask(bank, Transfer("ann", target, amount))
        except ActorDown as error:
            print(error.reason)


if __name__ == "__main__":
    logging.disable()  # on this page what is logged would only repeat what is printed
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run, Path(folder))
        (file,) = Path(folder).glob("bank-*.schedule")
        with redirect_stdout(StringIO()) as shown:
            rabble_step([str(file), "-c", "g end"])
        print(re.sub(r"127.0.0.1:\d+|on .* UTC", "...", shown.getvalue()), end="")
