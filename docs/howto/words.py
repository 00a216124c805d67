import contextlib

import trio

from rabble_trio import ActorDown, Envelope, Mailbox, message, open_node

AT_ONCE = 4
"""Files read at the same time. When all are busy, requests wait in the mailbox, and when that is full, so do senders."""


@message(tag="words.count")
class Count:
    """How many words are in this file?"""

    path: str


@message(tag="words.counted")
class Counted:
    """So many."""

    words: int


@message(tag="words.failed")
class Failed:
    """It can't be read."""

    reason: str


async def words(mailbox: Mailbox) -> None:
    """A service: it ends when its mailbox does, which is when it is asked to shut down."""
    free = trio.Semaphore(AT_ONCE)
    async with trio.open_nursery() as nursery:
        async for request in mailbox:
            await free.acquire()
            nursery.start_soon(answer, mailbox, request, free)


async def answer(mailbox: Mailbox, request: Envelope, free: trio.Semaphore) -> None:
    try:
        text = await trio.Path(request.message.path).read_text(encoding="utf-8")
        reply = Counted(len(text.split()))
    except (OSError, UnicodeDecodeError) as error:
        reply = Failed(type(error).__name__)
    finally:
        free.release()
    with contextlib.suppress(ActorDown):  # whoever asked may be gone
        await mailbox.send(request.sender, reply, request.correlation_id)


async def main() -> None:
    async with open_node("n1@127.0.0.1:0") as node:
        pid = await node.spawn("words", words)
        print(await node.ask(pid, Count(__file__.replace(".py", ".txt"))))
        print(await node.ask(pid, Count("no such file")))


if __name__ == "__main__":
    trio.run(main)
