"""Goes through lock.schedule with the commands that the tutorial explains."""

from __future__ import annotations

import sys
from pathlib import Path

from rabble_trio.testing.step import main

HERE = Path(__file__).parent
COMMANDS = ["g end", "b", "s bob", "?-> bob", "/release#1.1", "b 5", "p"]

if __name__ == "__main__":
    arguments = [str(HERE / "lock.schedule")]
    for command in COMMANDS:
        arguments += ["-c", command]
    sys.exit(main(arguments))
