"""One server: its process, its files, its disk, and what can be done to them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from .network import Network

START: Final = 30.0
"""Seconds that a server has to start: it reads its journal, and others may be starting beside it."""

STOP: Final = 15.0
"""Seconds that a server has to stop in good order."""

DISK: Final = 256 * 1024 * 1024
"""Bytes of a disk that can be harmed. It is memory, so it is small; what is not checkpointed must fit."""


class Broken(Exception):
    """The soak can't go on, or something does not come back that should."""


class Server:
    """A server. It belongs to one fault at a time, which holds `lock`."""

    def __init__(self, number: int, directory: Path, network: Network, secret: Path) -> None:
        self.number = number
        self.name = f"n{number}"
        self.lock = trio.Lock()
        self.directory = directory / self.name
        self.addresses = network.addresses(number)
        self.id = f"{self.name}@{self.addresses[0]}"
        self.ends: list[str] = []
        """How its process ended by itself, each time it should not have."""
        self._process: trio.Process | None = None
        self._may_end = False
        self._inside = network.inside(number)
        self.directory.mkdir()
        self.disk = Disk(self.directory / "data", can_be_harmed=network.can_cut)
        keys = ("cluster_host", "admin_host", "api_host")
        lines = [f'{key} = "{address}"' for key, address in zip(keys, self.addresses, strict=True)]
        lines += [
            f'node_name = "{self.name}"',
            'cluster_name = "soak"',
            f'secret_file = "{secret}"',
            'data_dir = "data"',
        ]
        lines += ["insecure = true"]  # the network is ours alone
        (self.directory / "haret.toml").write_text("\n".join(lines) + "\n")

    @property
    def admin(self) -> str:
        """Where operators find it."""
        return self.addresses[1]

    @property
    def clients(self) -> str:
        """Where clients find it."""
        return self.addresses[2]

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the process, and wait until it listens. Raises `Broken`."""
        command = [*self._inside, sys.executable, "-m", "haret", "serve", "--until-stdin-closes", "-o", "json"]
        command += ["--config", str(self.directory / "haret.toml")]
        with (self.directory / "log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,  # Ctrl-C is for us alone, and whatever is stopped ends with us: the kernel wakes it
            )
        self._process = process
        self._may_end = False
        assert process.stdout is not None
        said = b""
        with trio.move_on_after(START):
            while b"\n" not in said:
                more = await process.stdout.receive_some()
                if not more:
                    break
                said += more
        if b"\n" not in said:
            self._may_end = True
            process.kill()
            raise Broken(f"{self.name} did not start: {self.last_words()}")
        json.loads(said.partition(b"\n")[0])
        nursery.start_soon(self._watch, process)

    async def _watch(self, process: trio.Process) -> None:
        code = await process.wait()
        if not self._may_end and process is self._process:
            self.ends.append(f"{self.name} ended by itself, with {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._may_end = True
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """End it in good order. Raises `Broken`."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._may_end = True
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.move_on_after(STOP):
            code = await process.wait()
            if code != 0:
                raise Broken(f"{self.name} was stopped, and ended with {code}: {self.last_words()}")
            return
        process.kill()
        raise Broken(f"{self.name} did not stop within {STOP:g} s")

    async def end(self) -> None:
        """Wait until it ends by itself, which it may."""
        self._may_end = True
        if self._process is not None:
            await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send SIGSTOP or SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def abandon(self) -> None:
        """Make sure that nothing runs, when all is over."""
        self._may_end = True
        if self._process is not None:
            self._process.kill()


class Disk:
    """A directory, and below it a file system of its own if it can be harmed."""

    def __init__(self, path: Path, *, can_be_harmed: bool) -> None:
        self.path = path
        self.can_be_harmed = can_be_harmed
        path.mkdir()
        if can_be_harmed:
            self._mount("-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs")

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1024 * 1024)):
                pass  # until there is no room

    def empty(self) -> None:
        """Undo `fill`."""
        (self.path / "filler").unlink()

    def refuse_writes(self, refuse: bool) -> None:
        """Make it read-only, or not any more. While somebody writes to it, it can't be made so."""
        self._mount("-o", f"remount,{'ro' if refuse else 'rw'}")

    def close(self, keep: bool) -> None:
        """Undo all; `keep` what is on it, as ordinary files."""
        if self.can_be_harmed:
            kept = self.path.with_name("kept")
            if keep:
                shutil.copytree(self.path, kept)
            subprocess.run(["umount", "--lazy", self.path], check=True)
            if keep:
                self.path.rmdir()
                kept.rename(self.path)

    def _mount(self, *arguments: Any) -> None:
        subprocess.run(["mount", *arguments, self.path], check=True, capture_output=True)


def write_secret(directory: Path) -> Path:
    """What the servers share."""
    path = directory / "cluster.secret"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path
