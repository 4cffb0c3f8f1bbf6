"""Requests the server refuses: smuggling, bad syntax, bounds."""

import asyncio
from dataclasses import replace

import msgspec
import pytest
from tests.kit.world import (
    HOST,
    MemoryWorld,
    World,
    dial,
    echo,
    get,
    post,
    server_of,
    small_limits,
)

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Network
from penstock.kit.wire.http import Request, Response, Stream

SMUGGLING = {
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "two different lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "length list": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    "signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "unknown encoding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "two encodings": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    b"0\r\n\r\n",
    "chunked in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF in headers": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "NUL in name": b"GET / HTTP/1.1\r\nHo\x00st: a\r\n\r\n",
    "control in value": b"GET / HTTP/1.1\r\nHost: a\x01b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two authorizations": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nauthorization: b\r\n\r\n",
    "unknown method": b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "not a path": b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n",
    "letters as chunk size": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "hex prefix": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
    "negative chunk size": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "huge chunk size": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"11111111111111111\r\na\r\n",
    "chunk longer than its size": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\nab\r\n0\r\n\r\n",
    "chunk sizes with bare LF": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\na\n0\n\n",
    "upgrade with a body": b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
    b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("name", sorted(SMUGGLING))
def test_a_request_that_two_parsers_could_read_differently_is_refused_with_400(
    virtual: MemoryWorld, name: str
) -> None:
    async def scenario(network: Network) -> None:
        seen: list[str] = []

        async def handler(request: Request) -> Response | Stream:
            seen.append(request.path)
            return Response(200)

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(SMUGGLING[name] + get("/smuggled"))
        answer = await raw.until_closed()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer
        assert seen == []
        await server.close(0)

    virtual.run(scenario)


def test_bad_syntax_is_answered_on_every_network(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        answer = await raw.until_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        error = msgspec.json.decode(body)["error"]
        assert head.startswith(b"HTTP/1.1 400 ")
        assert (error["code"], error["type"]) == ("http_malformed", "invalid_request_error")
        await server.close(0)

    world.run(scenario)


def test_a_refusal_waits_for_the_answers_before_it(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            await asyncio.sleep(0.01)
            return Response(200, b"fine")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get() + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + get("/never"))
        answers = await raw.until_closed()
        assert answers.index(b"fine") < answers.index(b"400 Bad Request")
        assert answers.count(b"HTTP/1.1 ") == 2
        await server.close(0)

    world.run(scenario)


def test_a_body_announced_too_large_is_refused_before_it_is_sent(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(body=1000))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Content-Length: 1001", method="POST"))
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 413 ")
        await server.close(0)

    world.run(scenario)


def test_a_client_that_keeps_sending_can_still_read_its_413(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(body=1000))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(post(b"x" * 300_000))
        assert (await raw.until(b"body_too_large")).startswith(b"HTTP/1.1 413 ")
        await server.close(0)

    world.run(scenario)


def test_a_chunked_body_is_put_together_and_bounded(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(body=10))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        raw.transport.write(head + b"4\r\nabcd\r\n6;x=y\r\nefghij\r\n0\r\nTrailer: t\r\n\r\n")
        assert (await raw.until(b"abcdefghij")).startswith(b"HTTP/1.1 200 ")
        raw.transport.write(head + b"b\r\nabcdefghijk\r\n")
        assert b"HTTP/1.1 413 " in await raw.until_closed()
        await server.close(0)

    world.run(scenario)


def test_expect_100_is_answered_when_the_body_is_welcome(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(body=10))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert await raw.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.transport.write(b"abc")
        assert (await raw.until(b"abc")).count(b"HTTP/1.1 200 ") == 1
        raw.transport.write(get("/", "Content-Length: 11", "Expect: 100-continue", method="POST"))
        answers = await raw.until_closed()
        assert answers.count(b"100 Continue") == 1
        assert b"HTTP/1.1 413 " in answers
        await server.close(0)

    world.run(scenario)


def test_an_unknown_expectation_is_refused_with_417(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Expect: miracles"))
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 417 ")
        await server.close(0)

    virtual.run(scenario)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_head_that_does_not_end_is_refused_with_431(virtual: MemoryWorld, step: int) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(head=2000))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        endless = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000
        for at in range(0, len(endless), step):
            raw.transport.write(endless[at : at + step])
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 431 ")
        await server.close(0)

    virtual.run(scenario)


def test_many_headers_are_refused_with_431(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", *[f"X-{n}: a" for n in range(200)]))
        told = await raw.until_closed()
        assert told.startswith(b"HTTP/1.1 431 ")
        assert b"more than 128 headers" in told
        await server.close(0)

    virtual.run(scenario)


def test_an_endless_trailer_is_refused(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, limits=small_limits(head=2000))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\nX: ")
        for _ in range(10):
            raw.transport.write(b"x" * 500)
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 431 ")
        await server.close(0)

    virtual.run(scenario)


def test_a_header_with_a_line_end_cannot_split_the_response(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            return Response(200, b"", (("x-copied", "a\r\nset-cookie: evil=1"),))

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        answer = await raw.until_closed()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"evil" not in answer
        await server.close(0)

    virtual.run(scenario)


def test_what_never_reached_a_handler_is_counted_by_its_status(world: World) -> None:
    async def scenario(network: Network) -> None:
        metrics = Metrics()
        server = server_of(network, echo, limits=small_limits(body=1000), metrics=metrics)
        port = await server.start(HOST, 0)
        for request_bytes in (b"junk\r\n\r\n", post(b"x" * 1001), post(b"x" * 1001)):
            raw = await dial(network, port)
            raw.transport.write(request_bytes)
            await raw.until_closed()
        assert metrics.value("http_refused_total", status="400") == 1
        assert metrics.value("http_refused_total", status="413") == 2
        await server.close(0)

    world.run(scenario)


def test_bodies_of_many_connections_are_bounded_together(virtual: MemoryWorld) -> None:
    """One connection may send little, and thousands that may not even show a key still too much."""

    async def scenario(network: Network) -> None:
        limits = replace(small_limits(body=1_000), bodies_bytes_max=1_500)
        server = server_of(network, echo, limits=limits)
        port = await server.start(HOST, 0)
        slow = await dial(network, port)
        slow.transport.write(post(b"a" * 900)[:-100])
        await asyncio.sleep(1)
        assert server.held_bytes == 800
        turned_away = await dial(network, port)
        turned_away.transport.write(post(b"b" * 900)[:-100])
        refusal = await turned_away.until_closed()
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"bodies_full" in refusal
        slow.transport.write(b"a" * 100)
        assert (await slow.until(b"a" * 900)).startswith(b"HTTP/1.1 200 ")
        assert server.held_bytes == 0
        after = await dial(network, port)
        after.transport.write(post(b"c" * 900))
        await after.until(b"c" * 900)
        gone = await dial(network, port)
        gone.transport.write(post(b"d" * 900)[:-1])
        await asyncio.sleep(1)
        assert server.held_bytes == 899
        gone.transport.abort()
        await asyncio.sleep(1)
        assert server.held_bytes == 0
        await server.close(0)

    virtual.run(scenario)
