"""The client against our server and against servers that misbehave, on every network."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.kit.scripted import DEADLINE_MS, OK, scripted
from tests.kit.world import HOST, MemoryWorld, World, echo, server_of

from penstock.kit.errors import (
    BadReply,
    BodyTooLarge,
    DeadlinePassed,
    PeerClosed,
)
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response, Stream


def test_a_call_brings_back_status_headers_and_body(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        reply = await client.call(
            "POST",
            f"http://{HOST}:{port}/a/b?c=d",
            headers=(("x-mine", "1"),),
            body=b"hello",
            deadline_ms=DEADLINE_MS,
        )
        assert (reply.status, reply.body, reply.header("X-Path")) == (200, b"hello", "/a/b")
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_a_stream_keeps_the_grain_of_its_arrival(world: World) -> None:
    async def scenario(network: Network) -> None:
        taken = asyncio.Semaphore(0)

        async def chunks() -> AsyncIterator[bytes]:
            for n in range(20):
                yield b"data: %d\n\n" % n
                await taken.acquire()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (("content-type", "text/event-stream"),), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        got: list[bytes] = []
        async with client.open_stream(
            "GET", f"http://{HOST}:{port}/", head_deadline_ms=DEADLINE_MS
        ) as reply:
            assert (reply.status, reply.header("content-type")) == (200, "text/event-stream")
            async for chunk in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                got.append(chunk)
                taken.release()
        assert got == [b"data: %d\n\n" % n for n in range(20)]
        assert client.idle_links == 1
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_leaving_a_stream_early_cancels_the_other_side(world: World) -> None:
    async def scenario(network: Network) -> None:
        closed = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"token"
                    await asyncio.sleep(0.001)
            finally:
                closed.set()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        async with client.open_stream(
            "GET", f"http://{HOST}:{port}/", head_deadline_ms=DEADLINE_MS
        ) as reply:
            async for _ in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                break
        await closed.wait()
        assert client.idle_links == 0
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_a_slow_consumer_holds_the_server_back(world: World) -> None:
    async def scenario(network: Network) -> None:
        produced = 0
        total = 400

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal produced
            for _ in range(total):
                produced += 1
                yield b"x" * 65_536

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        async with client.open_stream(
            "GET", f"http://{HOST}:{port}/", head_deadline_ms=DEADLINE_MS
        ) as reply:
            before = -1
            while produced != before or produced == 0:
                before = produced
                await asyncio.sleep(0.2)  # until it stands still: there is no event for "nothing"
            assert produced < total // 2
            size = 0
            async for chunk in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                size += len(chunk)
        assert size == total * 65_536
        await client.close()
        await server.close(0)

    world.run(scenario)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nab",
        b"HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 2\r\n\r\nab",
        b"NONSENSE\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
    ],
)
def test_a_reply_that_cannot_be_trusted_is_a_bad_reply(world: World, reply: bytes) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [reply]) as (base, _):
            client = HttpClient(network)
            with pytest.raises(BadReply):
                await client.call("GET", base, deadline_ms=DEADLINE_MS)
            assert client.idle_links == 0
            await client.close()

    world.run(scenario)


def test_a_cut_body_is_told_apart_from_a_whole_one(world: World) -> None:
    async def scenario(network: Network) -> None:
        head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
        cut = [
            head + b"content-length: 5\r\n\r\nabc",
            head + b"transfer-encoding: chunked\r\n\r\n5\r\nabc",
            head + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ]
        async with scripted(network, lambda n: [cut[n]]) as (base, _):
            client = HttpClient(network)
            for script in cut:
                with pytest.raises(PeerClosed) as caught:
                    await client.call("GET", base, deadline_ms=DEADLINE_MS)
                assert caught.value.after_bytes == len(script)
            await client.close()

    world.run(scenario)


def test_chunks_before_the_cut_are_delivered(world: World) -> None:
    async def scenario(network: Network) -> None:
        script = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nabc"
        async with scripted(network, lambda n: [script]) as (base, _):
            client = HttpClient(network)
            got = b""
            with pytest.raises(PeerClosed):  # noqa: PT012 - the chunks before the error are the point
                async with client.open_stream("GET", base, head_deadline_ms=DEADLINE_MS) as reply:
                    async for chunk in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                        got += chunk
            assert got == b"abc"
            await client.close()

    world.run(scenario)


def test_a_body_without_a_length_ends_with_the_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        script = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it"
        async with scripted(network, lambda n: [script]) as (base, _):
            client = HttpClient(network)
            reply = await client.call("GET", base, deadline_ms=DEADLINE_MS)
            assert reply.body == b"all of it"
            assert client.idle_links == 0
            await client.close()

    world.run(scenario)


def test_interim_replies_are_skipped(world: World) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(
            network,
            lambda n: [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: 1\r\n\r\n" + OK],
        ) as (base, _):
            client = HttpClient(network)
            reply = await client.call("GET", base, deadline_ms=DEADLINE_MS)
            assert (reply.status, reply.body, reply.header("x")) == (200, b"ok", "")
            await client.close()

    world.run(scenario)


def test_head_does_not_wait_for_a_body(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        reply = await client.call("HEAD", f"http://{HOST}:{port}/x", deadline_ms=DEADLINE_MS)
        assert (reply.status, reply.body, reply.header("x-path")) == (200, b"", "/x")
        await client.close()
        await server.close(0)

    world.run(scenario)


@pytest.mark.parametrize("framing", [b"content-length: 3", b"transfer-encoding: chunked"])
def test_a_body_larger_than_allowed_is_not_read(world: World, framing: bytes) -> None:
    async def scenario(network: Network) -> None:
        body = b"abc" if b"length" in framing else b"3\r\nabc\r\n0\r\n\r\n"
        async with scripted(
            network, lambda n: [b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body]
        ) as (base, _):
            client = HttpClient(network)
            with pytest.raises(BodyTooLarge) as caught:
                await client.call("GET", base, deadline_ms=DEADLINE_MS, body_bytes_max=2)
            assert caught.value.bytes_max == 2
            await client.close()

    world.run(scenario)


def test_deadlines_are_kept_for_calls_heads_and_chunks(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        gone = asyncio.Semaphore(0)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for _ in range(5):
                    await asyncio.sleep(2)
                    yield b"slow"
                await asyncio.sleep(1000)
            finally:
                gone.release()

        async def handler(request: Request) -> Response | Stream:
            if request.path == "/stream":
                return Stream(200, (), chunks())
            try:
                await asyncio.sleep(1000)
            finally:
                gone.release()
            return Response(200)

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        base = f"http://{HOST}:{port}"
        with pytest.raises(DeadlinePassed) as call:
            await client.call("GET", base, deadline_ms=700)
        assert (call.value.stage, call.value.deadline_ms) == ("call", 700)
        with pytest.raises(DeadlinePassed) as head:
            async with client.open_stream("GET", base, head_deadline_ms=800):
                pytest.fail("there is no head")
        assert head.value.stage == "head"
        count = 0
        with pytest.raises(DeadlinePassed) as idle:  # noqa: PT012 - the chunks count too
            async with client.open_stream("GET", f"{base}/stream", head_deadline_ms=800) as reply:
                async for _ in reply.chunks(idle_deadline_ms=2_500):
                    count += 1
        assert (idle.value.stage, count) == ("chunk", 5)
        for _ in range(3):
            await gone.acquire()  # each deadline reached the server as a cancel
        await client.close()
        await server.close(0)

    virtual.run(scenario)


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http:///x", "/relative", "http://a/b c", "http://a/\u00e9"]
)
def test_a_url_that_cannot_be_sent_is_a_value_error(virtual: MemoryWorld, url: str) -> None:
    async def scenario(network: Network) -> None:
        client = HttpClient(network)
        with pytest.raises(ValueError):
            await client.call("GET", url, deadline_ms=DEADLINE_MS)
        await client.close()

    virtual.run(scenario)


def test_a_header_cannot_smuggle_a_request(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        client = HttpClient(network)
        with pytest.raises(ValueError):
            await client.call(
                "GET",
                "http://a/",
                headers=(("x", "1\r\n\r\nGET /evil HTTP/1.1"),),
                deadline_ms=DEADLINE_MS,
            )
        await client.close()

    virtual.run(scenario)


def test_a_reply_that_is_given_up_wakes_its_reader_and_cuts_the_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        gone = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                gone.set()

        async def handler(_request: Request) -> Stream:
            return Stream(200, (), chunks())

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        reply = await client.begin("POST", f"http://{HOST}:{port}/", body=b"x")
        assert await reply.next_chunk(idle_deadline_ms=DEADLINE_MS) == b"first"
        reading = asyncio.ensure_future(reply.next_chunk(idle_deadline_ms=DEADLINE_MS))
        await asyncio.sleep(0)
        reply.fail(PeerClosed(5))
        with pytest.raises(PeerClosed):
            await reading
        reply.end()
        await gone.wait()
        assert client.idle_links == 0
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_a_reply_that_was_read_to_its_end_gives_its_connection_back(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        client = HttpClient(network)
        reply = await client.begin("POST", f"http://{HOST}:{port}/", body=b"hello")
        assert await reply.next_chunk(idle_deadline_ms=DEADLINE_MS) == b"hello"
        assert await reply.next_chunk(idle_deadline_ms=DEADLINE_MS) == b""
        reply.end()
        assert client.idle_links == 1
        await client.close()
        await server.close(0)

    world.run(scenario)
