from collections.abc import Sequence

import trio

from rabble_trio import ActorDown, CorrelationId, Node, Outbox, Pid, Process, decode, encode, message, open_node

SNAPSHOT_EVERY = 100
"""Deposits after which the records are replaced by a snapshot, so that a restart never reads more than these."""


@message(tag="account.deposit")
class Deposit:
    """Add so much, once, however often this arrives."""

    number: int
    amount: int


@message(tag="account.balance")
class Balance:
    """What there is after this deposit."""

    number: int
    amount: int


class Account(Process):
    """Tells a balance only once it can't be forgotten."""

    def __init__(self) -> None:
        self.state = Balance(0, 0)

    def restore(self, snapshot: bytes | None, records: Sequence[bytes]) -> None:
        if snapshot is not None:
            self.state = decode(snapshot)
        for record in records:
            self.apply(decode(record))

    def apply(self, deposit: Deposit) -> None:
        self.state = Balance(deposit.number, self.state.amount + deposit.amount)

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Deposit(number):
                if number == self.state.number + 1:  # else it is a repetition
                    output.persist(encode(message))
                    self.apply(message)
                    if number % SNAPSHOT_EVERY == 0:
                        state = self.state  # of now, whenever a thread gets round to encoding it
                        output.snapshot(lambda: encode(state))
                output.send(sender, self.state, correlation_id)  # leaves when all records above are durable


async def deposit(node: Node, account: Pid, number: int) -> Balance:
    """Deposit 1, and say so again while the account is down."""
    while True:
        try:
            return await node.ask(account, Deposit(number, 1))
        except ActorDown:
            await trio.sleep(0.01)


async def main() -> None:
    async with open_node("n1@127.0.0.1:0") as node:
        account = await node.spawn("account", Account)
        for number in range(1, 251):
            reply = await deposit(node, account, number)
        print(reply)
        node.kill(account)
        print(await deposit(node, account, 251))


if __name__ == "__main__":
    trio.run(main)
