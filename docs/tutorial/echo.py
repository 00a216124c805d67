from typing import Any

import trio

from rabble_trio import ActorDown, ChildSpec, CorrelationId, Node, Outbox, Pid, Process, Supervisor, message, open_node


@message
class Say:
    """Please say this."""

    text: str


@message
class Said:
    """What was said, and how much was said before it and with it."""

    text: str
    count: int


@message
class Trip:
    """Please fall over."""


class Echo(Process):
    """Says what it is told to say, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Say(text):
                self.count += 1
                output.send(sender, Said(text, self.count), correlation_id)
            case Trip():
                raise RuntimeError("fell over")


async def ask_until_up(node: Node, pid: Pid, question: Any) -> Any:
    """Ask; ask again while the actor is down, as it is for a moment between a crash and the restart."""
    while True:
        try:
            return await node.ask(pid, question)
        except ActorDown:
            await trio.sleep(0.01)


async def main() -> None:
    async with open_node("n1@127.0.0.1:0") as node:
        # Start an actor, and ask it something. A timeout is the caller's own cancel scope.
        echo = await node.spawn("echo", Echo)
        with trio.fail_after(5):
            print(await node.ask(echo, Say("hello")))
            print(await node.ask(echo, Say("hello again")))

        # Stop it. Who asks now is told so, at once.
        await node.stop(echo)
        try:
            await node.ask(echo, Say("anybody there?"))
        except ActorDown as error:
            print("down:", error.reason)

        # Start another one under a supervisor, and watch it from a mailbox: that makes this very task an actor.
        await node.spawn("echoes", lambda: Supervisor("one_for_one", [ChildSpec("echo2", Echo)]))
        echo2 = Pid("echo2", node.id)
        async with node.open_mailbox("watcher") as mailbox:
            print(await node.ask(echo2, Say("one")))
            mailbox.monitor(echo2)
            await mailbox.send(echo2, Trip())
            envelope = await mailbox.receive()
            print(type(envelope.message).__name__, envelope.message.reason)

        # The supervisor has started it afresh: same pid, new count.
        print(await ask_until_up(node, echo2, Say("two")))


if __name__ == "__main__":
    trio.run(main)
