"""Three servers in one process, over real sockets: joining, redirects, the death of a node and its return."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import haret
from haret.client._client import STREAM
from haret.protocol import Namespace
from haret.server.config import Timeouts
from rabble_trio._frames import Tap

SECRET = "an integration test's secret"


class Servers:
    """Servers n1, n2, ..., each of which can be stopped, and started again at the same place."""

    def __init__(self, nursery: trio.Nursery, directory: Path, timeouts: Timeouts) -> None:
        self._nursery = nursery
        self._directory = directory
        self._timeouts = timeouts
        self._scopes: dict[int, trio.CancelScope] = {}
        self._ended: dict[int, trio.Event] = {}
        self._configs: dict[int, haret.ServerConfig] = {}
        self.running: dict[int, haret.Server] = {}
        (directory / "secret").write_text(SECRET)
        (directory / "secret").chmod(0o600)

    def config(self, number: int, **changes: Any) -> haret.ServerConfig:
        free = "127.0.0.1:0"
        return replace(
            haret.ServerConfig(f"n{number}", free, free, free, timeouts=self._timeouts),
            data_dir=str(self._directory / f"n{number}"),
            secret_file=str(self._directory / "secret"),
            **changes,
        )

    async def start(self, number: int, config: haret.ServerConfig | None = None) -> haret.Server:
        chosen = config or self._configs.get(number) or self.config(number)
        server: haret.Server = await self._nursery.start(self._run, number, chosen)
        # The next start is at the same place.
        addresses = {"cluster_host": server.node.id.addr, "admin_host": server.admin_address}
        self._configs[number] = replace(chosen, api_host=server.api_address, **addresses)
        return server

    async def _run(self, number: int, config: haret.ServerConfig, *, task_status: Any) -> None:
        ended = self._ended[number] = trio.Event()
        try:
            with trio.CancelScope() as self._scopes[number]:
                async with haret.open_server(config) as server:
                    self.running[number] = server
                    task_status.started(server)
                    await trio.sleep_forever()
        finally:
            self.running.pop(number, None)
            ended.set()

    async def kill(self, number: int) -> None:
        self._scopes[number].cancel()
        await self._ended[number].wait()

    async def kill_all(self) -> None:
        for number in list(self.running):
            await self.kill(number)

    def endpoints(self) -> list[str]:
        return [server.api_address for server in self.running.values()]

    @asynccontextmanager
    async def admin(self, number: int) -> AsyncIterator[haret.Admin]:
        async with haret.open_admin(self.running[number].admin_address) as admin:
            yield admin

    async def join_all(self) -> None:
        first, *others = self.running.values()
        for server in others:
            async with haret.open_admin(server.admin_address) as admin:
                await admin.join(first.node.id)

    async def create(self, number: int) -> Namespace:
        pids = [f"r{one}::{server.node.id}" for one, server in self.running.items()]
        async with self.admin(number) as admin:
            return await admin.create_namespace("demo", pids)


@asynccontextmanager
async def open_servers(
    directory: Path, config: haret.ServerConfig, count: int = 3, *, join: bool = True
) -> AsyncIterator[Servers]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            servers = Servers(nursery, directory, config.timeouts)
            for number in range(1, count + 1):
                await servers.start(number)
            if join:
                await servers.join_all()
            yield servers
            await servers.kill_all()


async def status_of(admin: haret.Admin, pid: Any) -> str:
    """The status of a replica, which may be about to be started."""
    while True:
        try:
            return (await admin.replica(pid)).status
        except haret.Unanswered:
            await trio.sleep(0.02)


def number_of(namespace: Namespace) -> int:
    assert namespace.primary is not None
    return int(namespace.primary.node.name[1:])


async def test_clients_reach_the_primary_wherever_it_is(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers, AsyncExitStack() as stack:
        await servers.create(2)
        for endpoint in servers.endpoints():
            client = await stack.enter_async_context(haret.open_client([endpoint], "demo"))
            path = f"/{endpoint.rpartition(':')[2]}"
            await client.create(path, "blob")
            assert (await client.blob_put(path, b"x")).value is None
        for number in servers.running:
            async with servers.admin(number) as admin:
                (namespace,) = await admin.namespaces()
                states = [await admin.replica(pid) for pid in namespace.replicas]
                assert [state.status for state in states] == ["normal"] * 3
        assert sorted(await haret.list_namespaces(servers.endpoints()[2:])) == ["demo"]


@pytest.mark.parametrize("taken", [100, 10**9])
async def test_hundreds_of_calls_at_once(
    tmp_path: Path, config: haret.ServerConfig, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """They go to the server while more are made, also if the kernel takes little at a time."""
    write = Tap._write
    async with open_servers(tmp_path, config) as servers:
        await servers.create(1)
        async with haret.open_client(servers.endpoints()[0], "demo") as client:
            await client.create("/queue", "queue")
            monkeypatch.setattr(Tap, "_write", lambda tap, data: write(tap, data[:taken]))

            async def push(number: int) -> None:
                await client.queue_push("/queue", b"%d" % number + bytes(1000))

            # Nothing comes behind the last of STREAM calls that would take it along, but a ping after a second.
            bounds = [*range(0, 20 * STREAM, STREAM), 1200]
            with trio.fail_after(15):
                for first, last in pairwise(bounds):
                    async with trio.open_nursery() as nursery:
                        for number in range(first, last):
                            nursery.start_soon(push, number)
            popped = {(await client.queue_pop("/queue")).value for _ in range(1200)}
            assert popped == {b"%d" % number + bytes(1000) for number in range(1200)}
            assert client.statistics().connections == 1
            assert client.statistics().resent == 0


async def test_stale_reads_are_answered_where_the_client_is(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        primary = number_of(await servers.create(1))
        here, there = (number for number in servers.running if number != primary)
        where = servers.running[here].api_address
        async with haret.open_client(servers.endpoints(), "demo") as writer, haret.open_client(where, "demo") as reader:
            written = await writer.create("/a", "blob")
            while True:
                try:
                    seen = await reader.blob_get("/a", stale=True)
                    break
                except haret.DoesNotExist:  # the replica here has not heard of it yet
                    await trio.sleep(0.01)
            assert seen.op >= written.op
            for number in range(20):
                value = b"%d" % number
                await writer.blob_put("/a", value)
                assert (await writer.blob_get("/a", stale=True)).value == value  # nobody goes back behind what they saw
                assert (await reader.blob_get("/a", stale=True)).op >= seen.op
            statistics = reader.statistics()
            assert (statistics.endpoint, statistics.sessions, statistics.redirects) == (where, 0, 0)

            await servers.kill(primary)
            await servers.kill(there)
            assert (await reader.blob_get("/a", stale=True)).op >= seen.op
            with trio.move_on_after(0.3) as scope:
                await reader.blob_get("/a")
            assert scope.cancelled_caught
            assert (await reader.blob_size("/a", stale=True)).value > 0


async def test_the_death_of_any_node_is_a_pause(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        namespace = await servers.create(1)
        async with haret.open_client(servers.endpoints(), "demo") as client:
            await client.create("/count", "queue")
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(client.queue_push, "/count", b"%d" % number)
                await servers.kill(number_of(namespace))
            assert (await client.queue_len("/count")).value == 20


async def test_a_node_that_comes_back_is_a_member_and_takes_part(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        namespace = await servers.create(1)
        primary = number_of(namespace)
        async with haret.open_client(servers.endpoints(), "demo") as client:
            await client.create("/a", "blob")
            await servers.kill(primary)
            await client.blob_put("/a", b"while it was away")
            await servers.start(primary)
            async with servers.admin(primary) as admin:
                while len((await admin.cluster_status()).established) < 2:  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.02)
                while await status_of(admin, namespace.primary) != "normal":  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.02)
                while (leader := await admin.primary("demo")) is None:  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.02)
                assert leader != namespace.primary
            own = servers.running[primary].api_address
            async with haret.open_client([own], "demo") as other:  # redirected, to a group that went on
                assert (await other.blob_get("/a")).value == b"while it was away"


async def test_a_stop_of_all_nodes_loses_nothing(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        await servers.create(1)
        async with haret.open_client(servers.endpoints(), "demo", give_up_after=30) as client:
            await client.create("/numbers", "queue")
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(client.queue_push, "/numbers", b"%d" % number)
                await servers.kill_all()  # in the middle of it
                for number in (1, 2, 3):
                    await servers.start(number)
            popped = [(await client.queue_pop("/numbers")).value for _ in range(201)]
            assert sorted(int(one) for one in popped[:200] if one is not None) == list(range(200))
            assert popped[200] is None
            assert client.statistics().sessions == 1


async def test_a_fenced_namespace_stands_still_after_a_stop_of_all_nodes(
    tmp_path: Path, config: haret.ServerConfig
) -> None:
    async with open_servers(tmp_path, config) as servers:
        pids = [f"r{one}::{server.node.id}" for one, server in servers.running.items()]
        async with servers.admin(1) as admin:
            assert (await admin.create_namespace("demo", pids, durability="fenced")).durability == "fenced"
        async with haret.open_client(servers.endpoints(), "demo") as client:
            await client.create("/a", "blob")
            await servers.kill(3)
            await servers.start(3)  # one may forget, and ask the others
            async with servers.admin(1) as admin:
                while await status_of(admin, f"demo::{pids[2]}") != "normal":  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.02)
            await servers.kill_all()
            for number in (1, 2, 3):
                await servers.start(number)
            with trio.move_on_after(0.5) as scope:
                await client.blob_get("/a")
            assert scope.cancelled_caught  # rather no answer than a wrong one
            async with servers.admin(1) as admin:
                (namespace,) = await admin.namespaces()
                assert (namespace.primary, namespace.durability) == (None, "fenced")
                assert await status_of(admin, namespace.replicas[0]) == "recovering"


async def test_a_node_that_lost_its_journal_recovers_from_the_others(
    tmp_path: Path, config: haret.ServerConfig
) -> None:
    async with open_servers(tmp_path, config) as servers:
        namespace = await servers.create(1)
        async with haret.open_client(servers.endpoints(), "demo") as client:
            await client.create("/a", "blob")
            await servers.kill(3)
            (tmp_path / "n3" / "journal.db").unlink()
            await servers.start(3)
            put = await client.blob_put("/a", b"x")
            async with servers.admin(3) as admin:
                while True:
                    with suppress(haret.Unanswered):  # about to be started
                        state = await admin.replica(namespace.replicas[2])
                        if state.status == "normal" and state.commit >= put.op:
                            break
                    await trio.sleep(0.02)
            await servers.kill(1)
            assert (await client.blob_get("/a")).value == b"x"  # n3 counts


async def test_a_crash_can_be_asked_for_from_any_node(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        namespace = await servers.create(1)
        far = next(pid for pid in namespace.replicas if pid.node.name == "n3")
        async with servers.admin(1) as admin:
            watched = servers.running[3].node
            async with watched.open_mailbox("watcher") as watcher:
                watcher.monitor(far)
                await admin.crash(far)
                assert "crashed" in (await watcher.receive()).message.reason


async def test_leaving(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers, servers.admin(1) as admin:
        three = servers.running[3].node.id
        await admin.leave(three)
        assert three not in (await admin.cluster_status()).members
        with pytest.raises(haret.BadRequest):
            await admin.leave(three)
        pids = [f"r{number}::{server.node.id}" for number, server in servers.running.items()]
        with pytest.raises(haret.BadRequest, match=f"cluster join {three}"):
            await admin.create_namespace("demo", pids)


async def test_a_node_with_another_secret_stays_outside(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config, 1) as servers:
        (tmp_path / "other").write_text("another secret of some length")
        (tmp_path / "other").chmod(0o600)
        stranger = replace(servers.config(2), secret_file=str(tmp_path / "other"))
        await servers.start(2, stranger)
        async with servers.admin(2) as admin:
            with pytest.raises(haret.BadRequest, match="secret"):
                await admin.join(servers.running[1].node.id)


async def test_a_damaged_record_is_a_clear_error(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers:
        await servers.create(1)
        await servers.kill(3)
        record = tmp_path / "n3" / "namespaces.record"
        record.write_bytes(record.read_bytes()[:-1])
        with pytest.raises(haret.ConfigError, match="damaged"):
            async with haret.open_server(servers._configs[3]):
                pass
        record.unlink()  # as the error says
        await servers.start(3)
        async with servers.admin(3) as admin:
            while not await admin.namespaces():  # noqa: ASYNC110  # no event tells
                await trio.sleep(0.02)


@dataclass(frozen=True)
class Certificates:
    """A certificate for each node, signed by one authority, in files."""

    directory: Path

    def issue(self, authority: trustme.CA, *names: str) -> None:
        authority.cert_pem.write_to_path(self.directory / "authority.pem")
        for name in names:
            certificate = authority.issue_cert(name)
            certificate.private_key_pem.write_to_path(self.directory / f"{name}.key")
            for place, pem in enumerate(certificate.cert_chain_pems):
                pem.write_to_path(self.directory / f"{name}.pem", append=place > 0)

    def tls(self, name: str) -> haret.Tls:
        certificate, key = (str(self.directory / f"{name}.{kind}") for kind in ("pem", "key"))
        return haret.Tls(certificate, key, str(self.directory / "authority.pem"))


async def test_links_with_certificates(tmp_path: Path, config: haret.ServerConfig) -> None:
    certificates = Certificates(tmp_path)
    certificates.issue(trustme.CA(), "n1", "n2", "stranger")
    async with open_servers(tmp_path, config, 0, join=False) as servers:
        for number, name in ((1, "n1"), (2, "n2"), (3, "stranger")):
            await servers.start(number, servers.config(number, tls=certificates.tls(name)))
        one = servers.running[1].node.id
        async with servers.admin(2) as admin:
            await admin.join(one)
            assert one in (await admin.cluster_status()).established
        async with servers.admin(3) as admin:  # its certificate has not the name of its node
            with pytest.raises(haret.BadRequest, match="certificate"):
                await admin.join(one)


async def test_members_change_under_load(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config, count=4) as servers, servers.admin(1) as admin:
        ids = [servers.running[number].node.id for number in (1, 2, 3, 4)]
        pids = [f"r{number}::{node}" for number, node in enumerate(ids, 1)]
        await admin.create_namespace("demo", pids[:3])
        async with haret.open_client(servers.endpoints(), "demo") as client:
            await client.create("/numbers", "queue")
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(client.queue_push, "/numbers", b"%d" % number)
                changed = await admin.reconfigure("demo", pids[1:], epoch=0)
            assert changed.epoch == 1
            assert [pid.name for pid in changed.replicas] == ["r2", "r3", "r4"]
            assert (await client.queue_len("/numbers")).value == 100
            with pytest.raises(haret.BadRequest, match="epoch"):  # somebody who has not seen the change
                await admin.reconfigure("demo", pids[:3], epoch=0)
            await admin.reconfigure("demo", pids[:3], epoch=1)  # and back
            assert (await client.queue_len("/numbers")).value == 100
            for pid in (await admin.namespaces())[0].replicas:
                while await status_of(admin, pid) != "normal":  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.02)


async def test_members_that_can_not_be_reached_are_refused(tmp_path: Path, config: haret.ServerConfig) -> None:
    async with open_servers(tmp_path, config) as servers, servers.admin(1) as admin:
        namespace = await servers.create(1)
        first = namespace.replicas[0]
        for replicas, text in (
            (("r9::n9@127.0.0.1:9", *map(str, namespace.replicas[1:])), "not a member of this cluster"),
            ((str(first), str(first), *map(str, namespace.replicas[1:])), "twice"),
            (tuple(map(str, namespace.replicas)), "already"),
        ):
            with pytest.raises(haret.BadRequest, match=text):
                await admin.reconfigure("demo", replicas, epoch=0)
        with pytest.raises(haret.NotEnoughReplicas):
            await admin.reconfigure("demo", namespace.replicas[:2], epoch=0)
        with pytest.raises(haret.UnknownNamespace):
            await admin.reconfigure("nowhere", namespace.replicas, epoch=0)
