"""Exchanges: keep-alive, pipelining, framing, crashes, on sockets and in memory."""

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
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.problem import Refusal, problem


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
