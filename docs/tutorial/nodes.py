import secrets

import trio

from rabble_trio import CorrelationId, Down, Mailbox, NodeDown, NodeId, NodeUp, Outbox, Pid, Process, message, open_node


@message(tag="tutorial.greet")
class Greet:
    """Please greet somebody."""

    name: str


@message(tag="tutorial.greeting")
class Greeting:
    """A greeting."""

    text: str


class Greeter(Process):
    """Greets."""

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Greet(name):
                output.send(sender, Greeting(f"Hello {name}, this is {output.pid.node.name}"), correlation_id)


async def run_far_node(secret: bytes, ended: trio.Event, *, task_status: trio.TaskStatus[NodeId]) -> None:
    async with open_node("far@127.0.0.1:0", secret=secret) as node:
        await node.spawn("greeter", Greeter)
        task_status.started(node.id)
        await ended.wait()


async def tell(mailbox: Mailbox) -> None:
    async for envelope in mailbox:
        match envelope.message:
            case NodeUp(node):
                print("up:", node.name)
            case Down(pid, reason):
                print("down:", pid.name, "has", reason)
            case NodeDown(node):
                print("down:", node.name)
                return


async def main() -> None:
    secret = secrets.token_bytes(32)
    ended = trio.Event()
    async with trio.open_nursery() as nursery, open_node("near@127.0.0.1:0", secret=secret) as node:
        far = await nursery.start(run_far_node, secret, ended)
        # Become one cluster.
        with trio.fail_after(10):
            await node.join(far)
        print([member.name for member in node.members])

        # Talk to an actor over there.
        greeter = Pid("greeter", far)
        reply = await node.ask(greeter, Greet("you"))
        print(reply.text)

        # See it go.
        async with node.open_mailbox("watcher") as mailbox:
            mailbox.monitor_nodes()
            mailbox.monitor(greeter)
            await node.ask(greeter, Greet("again"))  # what was sent before it has arrived, too
            ended.set()
            await tell(mailbox)
        print([member.name for member in node.members])

        # It was not told to leave, so it is a member still.
        await node.leave(far)
        print([member.name for member in node.members])


if __name__ == "__main__":
    trio.run(main)
