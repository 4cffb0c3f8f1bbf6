"""The client's keep-alive pool: reuse, staleness, bounds."""

import asyncio

import pytest
from tests.kit.scripted import DEADLINE_MS, OK, scripted
from tests.kit.world import HOST, MemoryWorld, World, echo, server_of

from penstock.kit.errors import (
    ConnectFailed,
    PeerClosed,
)
from penstock.kit.ports import Network
from penstock.kit.wire.client import ClientLimits, HttpClient


def test_calls_share_one_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        for n in range(5):
            body = b"x" * n * 100_000
            reply = await client.call(
                "PUT", f"http://{HOST}:{port}/", body=body, deadline_ms=DEADLINE_MS
            )
            assert reply.body == body
        assert (server.connections, client.idle_links) == (1, 1)
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_the_pool_is_bounded_and_last_in_first_out(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network, ClientLimits(idle_max=2))
        url = f"http://{HOST}:{port}/"
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(client.call("GET", url, deadline_ms=DEADLINE_MS))
        assert client.idle_links == 2
        await client.close()
        assert client.idle_links == 0
        await server.close(1000)

    world.run(scenario)


def test_a_port_where_nobody_listens_is_connect_failed(world: World) -> None:
    async def scenario(network: Network) -> None:
        listener = await network.listen(HOST, 0, asyncio.Protocol)
        port = listener.port
        await listener.close()
        client = HttpClient(network)
        with pytest.raises(ConnectFailed) as caught:
            await client.call("GET", f"http://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
        assert (caught.value.host, caught.value.port) == (HOST, port)
        await client.close()

    world.run(scenario)


def test_a_pooled_connection_that_died_is_replaced_for_a_safe_method(world: World) -> None:
    async def scenario(network: Network) -> None:
        # The first connection answers once and then closes on the second request.
        async with scripted(network, lambda n: [OK] if n == 0 else [OK, OK]) as (base, made):
            client = HttpClient(network)
            for _ in range(3):
                reply = await client.call("GET", base, deadline_ms=DEADLINE_MS)
                assert reply.body == b"ok"
            assert len(made) == 2
            await client.close()

    world.run(scenario)


def test_a_post_that_may_have_been_read_is_not_sent_twice(world: World) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK]) as (base, made):
            client = HttpClient(network)
            await client.call("POST", base, deadline_ms=DEADLINE_MS)
            with pytest.raises(PeerClosed) as caught:
                await client.call("POST", base, deadline_ms=DEADLINE_MS)
            assert caught.value.after_bytes == 0
            assert len(made) == 1
            await client.close()

    world.run(scenario)


def test_a_fresh_connection_that_dies_is_not_tried_again(world: World) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [None]) as (base, made):
            client = HttpClient(network)
            with pytest.raises(PeerClosed):
                await client.call("GET", base, deadline_ms=DEADLINE_MS)
            assert len(made) == 1
            await client.close()

    world.run(scenario)


def test_a_resting_connection_that_its_server_closes_leaves_the_pool(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        await client.call("GET", f"http://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
        assert client.idle_links == 1
        await server.close(5_000)
        while client.idle_links:
            await asyncio.sleep(0.001)
        await client.close()

    world.run(scenario)


def test_a_connection_that_rested_too_long_is_not_used(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK, OK]) as (base, made):
            client = HttpClient(network, ClientLimits(idle_ms=1000))
            await client.call("POST", base, deadline_ms=DEADLINE_MS)
            await asyncio.sleep(1.5)
            await client.call("POST", base, deadline_ms=DEADLINE_MS)
            assert len(made) == 2
            await client.close()

    virtual.run(scenario)


def test_a_second_reply_to_one_request_is_never_used(world: World) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK + OK.replace(b"ok", b"no")]) as (base, made):
            client = HttpClient(network)
            for _ in range(2):
                reply = await client.call("GET", base, deadline_ms=DEADLINE_MS)
                assert reply.body == b"ok"
            assert len(made) == 2
            await client.close()

    world.run(scenario)
