import trio

from rabble_trio import Process, message, open_node


@message
class Hello:
    text: str


class Echo(Process):
    def handle(self, message, sender, correlation_id, output):
        match message:
            case Hello():
                output.send(sender, message, correlation_id)


async def main():
    async with open_node("n1@127.0.0.1:0") as node:
        echo = await node.spawn("echo", Echo)
        with trio.fail_after(5):
            print(await node.ask(echo, Hello("hi")))


trio.run(main)
