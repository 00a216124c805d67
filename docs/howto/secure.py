from pathlib import Path

import trio

from rabble_trio import cluster_tls, open_node


async def run(name: str, address: str, folder: Path) -> None:
    tls = cluster_tls(folder / f"{name}.pem", folder / f"{name}.key", folder / "authority.pem")
    secret = (folder / "secret").read_bytes()
    async with open_node(f"{name}@{address}", tls=tls, secret=secret, data_dir=folder / name):
        await trio.sleep_forever()
