import trio

from rabble_trio import CorrelationId, Outbox, Pid, Process, message, open_node


@message(tag="lost.flood")
class Flood:
    """Send so many letters."""

    letters: int


@message(tag="lost.letter")
class Letter:
    """One of them."""

    number: int


class Slow(Process):
    """Has room for ten letters."""

    mailbox_size = 10

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        pass


class Flooder(Process):
    """Sends more than that, in one step, and one letter to nobody."""

    def __init__(self, slow: Pid) -> None:
        self.slow = slow

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Flood(letters):
                for number in range(letters):
                    output.send(self.slow, Letter(number))
                output.send(Pid("nobody", self.slow.node), Letter(letters))
                output.send(sender, message, correlation_id)


async def main() -> None:
    async with open_node("n1@127.0.0.1:0") as node, node.open_dead_letters() as dead_letters:
        slow = await node.spawn("slow", Slow)
        flooder = await node.spawn("flooder", lambda: Flooder(slow))
        await node.ask(flooder, Flood(12))
        for _ in range(3):
            letter = await dead_letters.receive()
            print(letter.reason, "|", letter.envelope.to.name, letter.envelope.message)
        print(node.executor_status().dead_letters)


if __name__ == "__main__":
    trio.run(main)
