import trio

import haret

CONFIG = haret.ServerConfig(
    node_name="node1",
    cluster_host="127.0.0.1:0",
    admin_host="127.0.0.1:0",
    api_host="127.0.0.1:0",
)


async def create_namespace(server: haret.Server) -> None:
    async with haret.open_admin(server.admin_address) as admin:
        replicas = [f"{name}::{server.node.id}" for name in ("r1", "r2", "r3")]
        await admin.create_namespace("demo", replicas)


async def use_each_type(client: haret.Client) -> None:
    await client.create("/config/motd", "blob")
    await client.blob_put("/config/motd", b"be kind")
    print((await client.blob_get("/config/motd")).value)

    await client.create("/jobs", "queue")
    await client.queue_push("/jobs", b"sweep")
    await client.queue_push("/jobs", b"cook")
    print((await client.queue_pop("/jobs")).value, (await client.queue_len("/jobs")).value)

    for name, members in [("/early", [b"ann", b"bob"]), ("/late", [b"bob", b"cyd"])]:
        await client.create(name, "set")
        for member in members:
            await client.set_insert(name, member)
    both = await client.set_intersection("/early", "/late")
    print(sorted(both.value))

    for key in (await client.list_keys("/")).value:
        print(key.type, key.path)


async def change_what_was_read(client: haret.Client) -> None:
    seen = await client.blob_get("/config/motd")
    await client.blob_put("/config/motd", b"be quick")  # somebody else, meanwhile
    try:
        await client.multi_cas(
            guards=[("/config/motd", seen.version)],
            operations=[haret.BlobPut("/config/motd", seen.value + b"!"), haret.QueuePush("/jobs", b"announce")],
        )
    except haret.CasFailed as error:
        print("nothing was changed, because", error.path, "was")
    print((await client.queue_len("/jobs")).value)


async def lose_the_primary(server: haret.Server, client: haret.Client) -> None:
    async with haret.open_admin(server.admin_address) as admin:
        before = await admin.primary("demo")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_a_hundred, client)
            await admin.crash(before)
        after = await admin.primary("demo")
    print("another primary:", before != after)
    print((await client.queue_len("/numbers")).value)


async def write_a_hundred(client: haret.Client) -> None:
    await client.create("/numbers", "queue")
    for number in range(100):
        await client.queue_push("/numbers", str(number).encode())


async def main() -> None:
    async with haret.open_server(CONFIG) as server:
        await create_namespace(server)
        async with haret.open_client([server.api_address], namespace="demo") as client:
            await use_each_type(client)
            await change_what_was_read(client)
            await lose_the_primary(server, client)


if __name__ == "__main__":
    trio.run(main)
