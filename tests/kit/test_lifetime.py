"""Connections and servers that end: drain, deadlines, bounds."""

import asyncio

import pytest
from tests.kit.world import (
    HOST,
    MemoryWorld,
    World,
    dial,
    echo,
    get,
    server_of,
)

from penstock.kit.ports import Network
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.limits import ServerLimits


def test_closing_lets_running_exchanges_finish(world: World) -> None:
    async def scenario(network: Network) -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> Response | Stream:
            started.set()
            await release.wait()
            return json_response(200, {"done": True})

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        busy, idle = await dial(network, port), await dial(network, port)
        busy.transport.write(get())
        await started.wait()
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(server.close(30_000))
            await idle.until_closed()
            assert not closing.done()
            with pytest.raises(OSError):
                await dial(network, port)
            release.set()
        answer = await busy.until_closed()
        assert answer.endswith(b'{"done":true}')
        assert b"connection: close" in answer

    world.run(scenario)


def test_closing_cuts_what_does_not_finish_in_time(world: World) -> None:
    async def scenario(network: Network) -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> Response | Stream:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Response(200)

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        await started.wait()
        await server.close(10)
        assert cancelled.is_set()
        assert await raw.until_closed() == b""

    world.run(scenario)


def test_connections_beyond_the_bound_are_refused_with_503(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=ServerLimits(connections_max=1))
        port = await server.start(HOST, 0)
        first = await dial(network, port)
        first.transport.write(get("/in"))
        await first.until(b"/in")
        second = await dial(network, port)
        assert (await second.until_closed()).startswith(b"HTTP/1.1 503 ")
        first.transport.write(get("/still"))
        await first.until(b"/still")
        await server.close(0)

    world.run(scenario)


def test_a_head_that_trickles_in_is_refused_after_the_head_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        began = asyncio.get_running_loop().time()
        trickle = b"GET / HTTP/1.1\r\nHost: a\r\nX: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        for n in range(len(trickle)):
            if raw.lost.is_set():
                break
            raw.transport.write(trickle[n : n + 1])
            await asyncio.sleep(1)
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 408 ")
        assert 10 < asyncio.get_running_loop().time() - began < 13
        await server.close(0)

    virtual.run(scenario)


def test_a_body_that_trickles_in_is_refused_after_the_body_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Content-Length: 100", method="POST"))
        while not raw.lost.is_set():
            raw.transport.write(b"x")
            await asyncio.sleep(5)
        assert raw.received.startswith(b"HTTP/1.1 408 ")
        await server.close(0)

    virtual.run(scenario)


def test_an_idle_connection_is_closed_after_the_idle_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/once"))
        await raw.until(b"/once")
        answered = asyncio.get_running_loop().time()
        await raw.until_closed()
        assert 74.9 < asyncio.get_running_loop().time() - answered < 75.2
        assert server.connections == 0
        await server.close(0)

    virtual.run(scenario)


def test_idle_connections_of_different_ages_are_each_closed_in_time(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=ServerLimits(idle_deadline_ms=5_000))
        port = await server.start(HOST, 0)
        now = asyncio.get_running_loop().time
        ages = []
        for _ in range(4):
            ages.append((await dial(network, port), now()))
            await asyncio.sleep(0.3)
        for raw, dialled_at in ages:
            await raw.until_closed()
            assert 4.9 < now() - dialled_at < 5.2
        await server.close(0)

    virtual.run(scenario)


def test_a_running_exchange_has_no_idle_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            await asyncio.sleep(600)
            return Response(200, b"late")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        assert (await raw.until(b"late")).startswith(b"HTTP/1.1 200 ")
        await server.close(0)

    virtual.run(scenario)


def test_thousands_of_idle_connections_cost_one_timer_and_disturb_nobody(
    virtual: MemoryWorld,
) -> None:
    async def scenario(network: Network) -> None:
        count = 2_000
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(dial(network, port)) for _ in range(count)]
        idle = [task.result() for task in tasks]
        assert server.connections == count
        assert server.deadlines.slots <= 2  # they came within a tenth of a second or two
        busy = await dial(network, port)
        busy.transport.write(get("/busy"))
        await busy.until(b"/busy")
        await asyncio.sleep(70)
        busy.transport.write(get("/still"))
        await busy.until(b"/still")
        await asyncio.sleep(10)
        assert server.connections == 1
        assert all(one.lost.is_set() for one in idle)
        assert server.held_bytes == 0
        await server.close(0)

    virtual.run(scenario)


def test_a_draining_server_waits_for_what_runs_and_takes_nothing_new(world: World) -> None:
    async def scenario(network: Network) -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> Response | Stream:
            started.set()
            await release.wait()
            return Response(200, b"done")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        busy, idle, half = [await dial(network, port) for _ in range(3)]
        half.transport.write(b"GET / HTTP/1.1\r\nHo")
        busy.transport.write(get() + get("/pipelined"))
        await started.wait()
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(server.drain())
            await idle.until_closed()
            await half.until_closed()
            with pytest.raises(OSError):
                await dial(network, port)
            assert not draining.done()
            release.set()
        answer = await busy.until_closed()
        assert answer.count(b"HTTP/1.1 200 ") == 1
        assert b"connection: close\r\n" in answer
        assert server.connections == 0
        await server.close(0)

    world.run(scenario)


def test_a_refused_client_that_never_closes_is_cut_after_a_moment(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        began = asyncio.get_running_loop().time()
        raw.transport.write(b"junk\r\n\r\n")
        while not raw.lost.is_set():
            raw.transport.write(b"more")
            await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - began < 2
        assert raw.received.startswith(b"HTTP/1.1 400 ")
        assert server.connections == 0
        await server.close(0)

    virtual.run(scenario)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHo", get("/", "Content-Length: 9") + b"a"]
)
def test_a_client_that_closes_its_half_in_the_middle_leaves_nothing(
    world: World, sent: bytes
) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(sent)
        raw.transport.write_eof()
        assert await raw.until_closed() == b""
        while server.connections:
            await asyncio.sleep(0.001)
        assert server.held_bytes == 0
        await server.close(0)

    world.run(scenario)
