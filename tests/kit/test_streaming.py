"""Streams: grain, back-pressure, and clients that leave."""

import asyncio
from collections.abc import AsyncIterator

from tests.kit.world import (
    HOST,
    MemoryWorld,
    World,
    dial,
    get,
    server_of,
)

from penstock.kit.ports import Network
from penstock.kit.wire.http import Request, Response, Stream


def test_a_stream_is_sent_chunk_by_chunk_as_it_comes(world: World) -> None:
    async def scenario(network: Network) -> None:
        go_on = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            yield b""
            await go_on.wait()
            yield b"second"

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (("content-type", "text/plain"),), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        answer = await raw.until(b"first\r\n")
        assert answer.endswith(
            b"transfer-encoding: chunked\r\ncontent-type: text/plain\r\n\r\n5\r\nfirst\r\n"
        )
        go_on.set()
        assert (await raw.until(b"0\r\n\r\n")).endswith(b"6\r\nsecond\r\n0\r\n\r\n")
        await server.close(0)

    world.run(scenario)


def test_a_stream_of_known_length_goes_out_unframed(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def chunks(parts: list[bytes]) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async def handler(request: Request) -> Response | Stream:
            parts = [b"ab", b"cd"] if request.path == "/good" else [b"abcde"]
            return Stream(200, (), chunks(parts), length=4)

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/good"))
        answer = await raw.until(b"abcd")
        assert b"content-length: 4\r\n" in answer
        assert b"transfer-encoding" not in answer
        raw.transport.write(get("/bad"))
        assert (await raw.until_closed()).count(b"abcd") == 1
        await server.close(0)

    world.run(scenario)


def test_a_client_that_leaves_cancels_its_handler(world: World) -> None:
    async def scenario(network: Network) -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()
        requests: list[Request] = []

        async def handler(request: Request) -> Response | Stream:
            requests.append(request)
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

        raw.transport.close()
        await cancelled.wait()
        await server.close(0)

    world.run(scenario)


def test_a_client_that_leaves_closes_the_stream_it_read(world: World) -> None:
    async def scenario(network: Network) -> None:
        closed = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        await raw.until(b"first")
        raw.transport.abort()
        await closed.wait()
        await server.close(0)
        assert server.connections == 0

    world.run(scenario)


def test_a_slow_reader_holds_the_stream_back(world: World) -> None:
    async def scenario(network: Network) -> None:
        produced = 0
        total = 400
        part = b"x" * 65_536

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal produced
            for _ in range(total):
                produced += 1
                yield part

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.pause_reading()
        raw.transport.write(get())
        before = -1
        while produced != before or produced == 0:
            before = produced
            await asyncio.sleep(0.2)  # until it stands still: there is no event for "nothing"
        assert produced < total // 2
        raw.transport.resume_reading()
        await raw.until(b"0\r\n\r\n")
        assert produced == total
        await server.close(0)

    world.run(scenario)


def test_a_reader_that_never_reads_is_cut_after_the_stall_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        closed = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
            finally:
                closed.set()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.pause_reading()
        raw.transport.write(get())
        await closed.wait()
        assert asyncio.get_running_loop().time() > 60
        await raw.lost.wait()
        await server.close(0)

    virtual.run(scenario)


def test_a_crash_in_a_stream_cuts_it_short_of_its_end(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise KeyError("bug")

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        assert b"0\r\n\r\n" not in await raw.until_closed()
        await server.close(0)

    world.run(scenario)
