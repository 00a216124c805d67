import trio

import haret

config = haret.ServerConfig("node1", cluster_host="127.0.0.1:0", admin_host="127.0.0.1:0", api_host="127.0.0.1:0")


async def take_a_job(client):
    """Move the next job from the queue to those under way: both changes happen, or neither."""
    job = await client.queue_front("/jobs")
    if job.value is None:
        return None
    try:
        await client.multi_cas(
            guards=[("/jobs", job.version)],
            operations=[haret.QueuePop("/jobs"), haret.SetInsert("/under-way", job.value)],
        )
    except haret.CasFailed:
        return await take_a_job(client)  # somebody was quicker: look again
    return job.value


async def main():
    async with haret.open_server(config) as server:
        async with haret.open_admin(server.admin_address) as admin:
            await admin.create_namespace("demo", [f"r{number}::{server.node.id}" for number in (1, 2, 3)])
        async with haret.open_client(server.api_address, namespace="demo") as client:
            await client.create("/jobs", "queue")
            await client.create("/under-way", "set")
            await client.queue_push("/jobs", b"sweep the floor")
            print(await take_a_job(client))


trio.run(main)
