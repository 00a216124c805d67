"""triotp's side of the benchmarks: `python triotp_peer.py SCENARIO COUNT` prints {"count": ..., "seconds": ...}.

A script without imports from this project, because it runs in an interpreter that has triotp and the old Trio it needs.
"""

import json
import sys
import time

import trio
import trio.testing
from triotp import gen_server, mailbox
from triotp.helpers import current_module

# gen_server finds its callbacks, the functions below, in the module it is given.
__module__ = current_module()

RING = 1000


async def init(_argument):
    return 0


async def handle_call(message, _caller, state):
    return gen_server.Reply(message), state


async def handle_cast(message, state):
    if message is not None:
        message.set()  # the last message: all before it were handled
    return gen_server.NoReply(), state + 1


async def one_way(count, nursery):
    nursery.start_soon(gen_server.start, __module__, None, "sink")
    await trio.testing.wait_all_tasks_blocked()
    done = trio.Event()
    start = time.perf_counter()
    for _ in range(count - 1):
        await gen_server.cast("sink", None)
    await gen_server.cast("sink", done)
    await done.wait()
    return time.perf_counter() - start


async def ask(count, nursery):
    nursery.start_soon(gen_server.start, __module__, None, "echo")
    await trio.testing.wait_all_tasks_blocked()
    start = time.perf_counter()
    for number in range(count):
        await gen_server.call("echo", number)
    return time.perf_counter() - start


async def ring(count, nursery):
    done = trio.Event()

    async def member(index):
        async with mailbox.open(f"member{index}") as mid:
            while True:
                left = await mailbox.receive(mid)
                if left == 0:
                    done.set()
                else:
                    await mailbox.send(f"member{(index + 1) % RING}", left - 1)

    for index in range(RING):
        nursery.start_soon(member, index)
    await trio.testing.wait_all_tasks_blocked()
    start = time.perf_counter()
    await mailbox.send("member0", count)
    await done.wait()
    return time.perf_counter() - start


async def main(scenario, count):
    mailbox._init()  # what triotp.node.run does first; an application and a supervisor would only add to its bill
    async with trio.open_nursery() as nursery:
        seconds = await scenario(count, nursery)
        nursery.cancel_scope.cancel()
    print(json.dumps({"count": count, "seconds": seconds}))


if __name__ == "__main__":
    trio.run(main, {"one_way": one_way, "ask": ask, "ring": ring}[sys.argv[1]], int(sys.argv[2]))
