"""Random schedules: loss, duplication, reordering, partitions, silence, restarts of anybody with what was durable, disks
that are lost by a minority, impatient clients.

The invariants of the protocol are checked after every step (conftest.py). When the faults stop, the group must come
together and answer everything. A seed decides everything, so a failure is repeated by its seed.
"""

from random import Random

import pytest

from haret.vr.messages import OpenSession, Reply, Request, SessionExpired, SessionOpened
from rabble_trio import CorrelationId

SEEDS = 400
STEPS = 400
MAX_FLYING = 150


class Client:
    """Keeps a few requests under way, and sends them again to anybody."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.incarnation = 0
        self.reopen()

    def reopen(self) -> None:
        self.incarnation += 1
        self.bytes = b"%8d%8d" % (self.name, self.incarnation)
        self.session = None
        self.number = 0
        self.waiting = {}  # number -> (operation, newest op known to be committed when it was first sent)

    def messages(self) -> list:
        if self.session is None:
            return [OpenSession(self.bytes)]
        lowest = min(self.waiting, default=1)
        return [Request(self.session, number, lowest, operation) for number, (operation, _) in self.waiting.items()]


class World:
    def __init__(self, make_network, seed: int) -> None:
        self.random = random = Random(seed)
        self.size = random.choice([3, 3, 3, 4, 5])
        self.network = make_network(
            self.size,
            seed,
            pipeline=random.choice([1, 2, 3]),
            batch_entries=random.choice([1, 2, 3, 1000]),
            max_sessions=random.choice([2, 10, 10]),
            max_uncommitted=random.choice([3, 1000]),
            max_unsynced=random.choice([3, 1000]),
            checkpoint_ops=random.choice([3, 10, 1000]),
            checkpoint_step=random.choice([1, 3]),
        )
        self.clients = [Client(name) for name in range(3)]
        self.crashes = (self.size - 1) // 2
        self.newest = 0
        self.answered = set()
        self.loss = random.choice([0, 0.02, 0.1])
        self.tick_weight = random.choice([5, 15, 30])
        self.impatience = random.choice([0, 0.5, 2])
        self.in_order = random.random() < 0.3
        self.restarts = random.choice([0, 0.5, 2])
        self.slow_disks = random.choice([0, 0, 2, 10])

    def send(self, client: Client, message: object, to: int) -> None:
        self.network.give(to, message, cid=CorrelationId(self.network.client, client.name, client.incarnation))

    def read(self) -> None:
        """Clients read what they received."""
        inbox, self.network.inbox = self.network.inbox, []
        newest = self.newest
        for envelope in inbox:
            if envelope.to != self.network.client:
                continue
            client = self.clients[envelope.correlation_id.connection]
            message = envelope.message
            if envelope.correlation_id.request != client.incarnation:
                continue
            if isinstance(message, SessionOpened) and client.session is None:
                client.session = message.session
            elif isinstance(message, SessionExpired):
                client.reopen()
            elif isinstance(message, Reply) and message.number in client.waiting:
                operation, known = client.waiting.pop(message.number)
                assert message.op > known, "12: a request was ordered before one that was answered before it was sent"
                assert message.result.endswith(b". " + operation)
                self.answered.add(operation)
                newest = max(newest, message.op)
        self.newest = newest

    def new_request(self) -> None:
        client = self.random.choice(self.clients)
        if client.session is not None and len(client.waiting) < 5:
            client.number += 1
            client.waiting[client.number] = (b"%s/%d" % (client.bytes, client.number), self.newest)
        messages = client.messages()
        if messages:
            self.send(client, messages[-1], self.guess())

    def retry(self) -> None:
        client = self.random.choice(self.clients)
        messages = client.messages()
        if messages:
            self.send(client, self.random.choice(messages), self.guess())

    def guess(self) -> int:
        primaries = self.network.primaries()
        return self.random.choice(primaries) if primaries and self.random.random() < 0.8 else self.any()

    def any(self) -> int:
        return self.random.randrange(self.size)

    def deliver(self) -> None:
        flying = self.network.flying
        if not flying:
            return
        index = 0 if self.in_order else self.random.randrange(min(len(flying), 30))
        envelope = flying.pop(index)
        if self.random.random() < self.loss:
            return
        if self.random.random() < 0.05:
            flying.append(envelope)
        self.network.release([envelope])

    def trouble(self) -> None:
        random, network = self.random, self.network
        what = random.random()
        if what < 0.3:
            network.isolate(self.any())
        elif what < 0.5:
            network.cut.add((self.any(), self.any()))
        elif what < 0.9:
            network.cut.clear()
        elif self.crashes:
            alive = [i for i in range(self.size) if network[i].status != "recovering"]
            network.crash(random.choice(alive))
            self.crashes -= 1

    def restart(self) -> None:
        """Somebody crashes, or all do at once; what was not durable is gone."""
        for i in range(self.size) if self.random.random() < 0.1 else [self.any()]:
            self.network.restart(i)

    def disk(self) -> None:
        """A disk becomes slow, or gets something done."""
        i, network = self.any(), self.network
        if i in network.slow:
            network.sync(i)
            if self.random.random() < 0.3:
                network.slow.discard(i)
        else:
            network.slow.add(i)

    def step(self) -> None:
        actions = {
            self.deliver: 60,
            self.tick: self.tick_weight,
            self.new_request: 8,
            self.retry: 5,
            self.trouble: 1,
            self.lose_patience: self.impatience,
            self.restart: self.restarts,
            self.disk: self.slow_disks,
        }
        self.random.choices(list(actions), list(actions.values()))[0]()
        self.read()
        if len(self.network.flying) > MAX_FLYING:
            del self.network.flying[self.random.randrange(MAX_FLYING)]

    def tick(self) -> None:
        self.network.tick(self.any())

    def lose_patience(self) -> None:
        """Some replicas hear nothing for as long as it takes to wish for another view."""
        for i in self.random.sample(range(self.size), self.random.randint(1, self.size)):
            self.network.tick(i, 9)

    def come_together(self) -> None:
        """Faults stop; clients find the primary and repeat what is unanswered."""
        network = self.network
        network.cut.clear()
        network.slow.clear()
        for i in range(self.size):
            network.sync(i)
        alive = [i for i in range(self.size) if network[i].status != "recovering"]
        for _ in range(12):
            network.settle()
            network.run(6)
            for client in self.clients:
                for message in client.messages():
                    for i in network.primaries():
                        self.send(client, message, i)
            network.settle()
            self.read()
            busy = any(client.waiting or client.session is None for client in self.clients)
            if not busy and len(network.primaries()) == 1:
                break
        network.run(3)
        assert len(network.primaries()) == 1
        network.assert_converged(*alive)
        assert all(not client.waiting for client in self.clients), "17: a request was never answered"
        assert self.answered <= set(network.applied(alive[0]))


@pytest.mark.parametrize("part", range(8))
def test_random_schedules(make_network, part):
    for seed in range(part, SEEDS, 8):
        world = World(make_network, seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.come_together()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def cut_at_random(network, random: Random) -> list[int]:
    """Cut links in single directions, but none between the members of some quorum; returns that quorum."""
    size = len(network.pids)
    core = random.sample(range(size), network.configuration.quorum)
    network.cut = {
        (i, j)
        for i in range(size)
        for j in range(size)
        if not (i in core and j in core) and random.random() < random.choice([0.2, 0.5, 0.9])
    }
    return core


@pytest.mark.parametrize("part", range(4))
def test_a_connected_quorum_serves_whatever_the_other_links_do(make_network, part):
    """Links that fail for long, in one direction or both, stop nobody as long as a quorum is connected."""
    for seed in range(part, 200, 4):
        random = Random(seed)
        network = make_network(random.choice([3, 4, 5]), seed)
        try:
            network.settle()
            session = network.open()
            for number in (1, 2, 3, 4):
                core = cut_at_random(network, random)
                for _ in range(25):
                    network.run(5)
                    for i in network.primaries():
                        network.request(i, session, number, lowest=number)
                    network.settle()
                    if network.replies(number):
                        break
                assert network.replies(number), f"core {core}, cut {sorted(network.cut)}"
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
