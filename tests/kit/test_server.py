"""The server against raw bytes, on sockets and in memory."""

import asyncio
from collections.abc import AsyncIterator

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
from penstock.kit.problem import Refusal, problem
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.limits import ServerLimits

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


def test_a_connection_serves_many_requests(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        for n in range(1, 4):
            raw.transport.write(post(b"body-%d" % n, f"/{n}"))
            answers = await raw.until(b"body-%d" % n)
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == n
            assert b"x-path: /%d\r\n" % n in answers
        assert server.connections == 1
        raw.transport.write(get("/", "Connection: close"))
        assert (await raw.until_closed()).count(b"connection: close") == 1
        await server.close(0)

    world.run(scenario)


def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            if request.path == "/0":
                await asyncio.sleep(0.01)  # the first is the slowest
            return Response(200, b"<" + request.path.encode() + b">")

        server = server_of(network, handler, limits=small_limits(pipeline=4))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(b"".join(get(f"/{n}") for n in range(50)))
        answers = await raw.until(b">", times=50)
        places = [answers.index(b"</%d>" % n) for n in range(50)]
        assert places == sorted(places)
        await server.close(0)

    world.run(scenario)


def test_a_client_that_pipelines_without_end_is_not_read_further(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        release = asyncio.Event()

        async def handler(request: Request) -> Response | Stream:
            await release.wait()
            return Response(200, b"!")

        server = server_of(network, handler, limits=small_limits(pipeline=4))
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        for _ in range(3000):
            raw.transport.write(get("/" + "x" * 100))
        await asyncio.sleep(1)
        unread = raw.transport.get_write_buffer_size()
        assert unread > 2900 * 100
        release.set()
        await raw.until(b"\r\n\r\n!", times=3000)
        await server.close(0)

    virtual.run(scenario)


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
        assert (await raw.until_closed()).startswith(b"HTTP/1.1 431 ")
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


def test_head_gets_the_length_without_the_body(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            return Response(200, b"hello")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get(method="HEAD") + get("/", "Connection: close"))
        first, _, second = (await raw.until_closed()).partition(b"\r\n\r\n")
        assert b"content-length: 5" in first
        assert second.startswith(b"HTTP/1.1 200 OK")
        assert second.endswith(b"hello")
        await server.close(0)

    world.run(scenario)


def test_http_1_0_closes_unless_keep_alive_is_asked_for(world: World) -> None:
    async def scenario(network: Network) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), chunks()) if request.path == "/s" else Response(200, b"ok")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in await raw.until(b"ok")
        raw.transport.write(b"GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answers = await raw.until_closed()
        assert answers.endswith(b"connection: close\r\n\r\nonetwo")
        await server.close(0)

    world.run(scenario)


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
        assert not requests[0].client_gone.is_set()
        raw.transport.close()
        await cancelled.wait()
        assert requests[0].client_gone.is_set()
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


def test_a_crash_becomes_a_500_with_the_request_id(world: World) -> None:
    async def scenario(network: Network) -> None:
        metrics = Metrics()

        async def handler(request: Request) -> Response | Stream:
            raise KeyError("private detail")

        server = server_of(network, handler, metrics=metrics)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        head, _, body = (await raw.until_closed()).partition(b"\r\n\r\n")
        error = msgspec.json.decode(body)["error"]
        assert head.startswith(b"HTTP/1.1 500 ")
        assert f"x-request-id: {error['request_id']}".encode() in head
        assert b"private detail" not in body
        assert metrics.value("task_crashes_total", task="exchange") == 1
        await server.close(0)

    world.run(scenario)


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


def test_a_handler_cannot_override_the_framing(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            copied = (("Content-Length", "99"), ("Transfer-Encoding", "chunked"), ("x-kept", "1"))
            return Response(200, b"ok", copied)

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Connection: close"))
        head = (await raw.until_closed()).lower()
        assert head.count(b"content-length") == 1
        assert b"transfer-encoding" not in head
        assert b"x-kept: 1" in head
        await server.close(0)

    virtual.run(scenario)


def test_a_refusal_raised_in_a_handler_is_the_answer(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            raise Refusal(problem(402, "insufficient_funds", "Add money."))

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        assert (await raw.until(b"insufficient_quota")).startswith(b"HTTP/1.1 402 ")
        raw.transport.write(get())
        await raw.until(b"insufficient_quota", times=2)
        await server.close(0)

    virtual.run(scenario)


def test_a_handler_that_cancels_itself_does_not_leave_its_client_waiting(
    virtual: MemoryWorld,
) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            raise asyncio.CancelledError

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get())
        assert await raw.until_closed() == b""
        await server.close(0)

    virtual.run(scenario)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_no_length(virtual: MemoryWorld, status: int) -> None:
    async def scenario(network: Network) -> None:
        async def handler(request: Request) -> Response | Stream:
            return Response(status, b"dropped")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "Connection: close"))
        answer = await raw.until_closed()
        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length" not in answer
        await server.close(0)

    virtual.run(scenario)


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


def test_request_ids_are_unique_and_not_taken_from_the_client(world: World) -> None:
    async def scenario(network: Network) -> None:
        ids: list[str] = []

        async def handler(request: Request) -> Response | Stream:
            ids.append(request.request_id)
            return Response(200, b"!")

        server = server_of(network, handler)
        port = await server.start(HOST, 0)
        raw = await dial(network, port)
        raw.transport.write(get("/", "X-Request-Id: mine") * 3)
        answers = await raw.until(b"!", times=3)
        assert len(set(ids)) == 3
        assert all(f"x-request-id: {one}\r\n".encode() in answers for one in ids)
        assert b"mine" not in answers
        await server.close(0)

    world.run(scenario)
