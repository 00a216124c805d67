"""The admin client and answers that come sooner than expected."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from haret import Admin
from haret.protocol import Answer, GetPrimary, Primary
from rabble_trio import decode_batch, encode, join_batch


class HastyConnection:
    """The answer to a question is received before `send` has returned."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](1)

    async def send(self, data: bytes) -> None:
        (question,) = decode_batch(data)
        assert question.request == GetPrimary("demo")
        await self._send.send(join_batch([encode(Answer(question.id, Primary("demo", None)))]))
        await trio.testing.wait_all_tasks_blocked()

    async def receive(self) -> bytes:
        return await self._receive.receive()


async def test_an_answer_that_overtakes_the_end_of_sending_is_not_lost(autojump_clock: Any) -> None:
    admin = Admin(HastyConnection(), "somewhere")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admin._receive)
        with trio.fail_after(1):
            assert await admin.primary("demo") is None
        nursery.cancel_scope.cancel()
