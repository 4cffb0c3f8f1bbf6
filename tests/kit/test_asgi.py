"""A Starlette app and our own routes on one port."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as AppRequest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.responses import Response as AppResponse
from starlette.routing import Route
from tests.kit.world import HOST, MemoryWorld, Raw, World, dial, get, post, server_of

from penstock.kit.ports import Network
from penstock.kit.wire.asgi import AsgiSite, Message, Receive, Send
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.limits import IntakeLimits, ServerLimits
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server

PART = b"x" * 65_536


async def describe(request: AppRequest) -> AppResponse:
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "name": request.path_params["name"],
            "query": dict(request.query_params),
            "length": request.headers.get("content-length"),
            "x": request.headers.get("x-mine"),
            "body": body.decode(),
            "host": request.client.host if request.client else "",
        },
        headers={"X-App": "yes", "Connection": "close", "X-Request-Id": "theirs"},
    )


async def upper(request: AppRequest) -> AppResponse:
    async def parts() -> AsyncIterator[bytes]:
        async for part in request.stream():
            if part:
                yield part.upper()

    return StreamingResponse(parts(), media_type="text/plain")


async def form(request: AppRequest) -> AppResponse:
    async with request.form(max_part_size=1 << 20) as fields:
        upload = fields["file"]
        assert not isinstance(upload, str)
        data = await upload.read()
        return JSONResponse({"name": upload.filename, "size": len(data)})


async def crash(request: AppRequest) -> AppResponse:
    raise KeyError("private detail")


APP = Starlette(
    routes=[
        Route("/app/upper", upper, methods=["POST"]),
        Route("/app/form", form, methods=["POST"]),
        Route("/app/crash", crash),
        Route("/app/{name}", describe, methods=["GET", "POST"]),
    ]
)


async def own(request: Request) -> Response:
    return Response(200, b"own " + request.body)


def site(app: Any = APP) -> AsgiSite:
    routes = Routes()
    routes.add("GET", "/own/{name}", own)
    routes.add("POST", "/own/{name}", own)
    return AsgiSite(app, routes)


async def started(
    network: Network, app: Any = APP, *, limits: ServerLimits | None = None
) -> tuple[Server, Raw]:
    def hot(exchange: Exchange) -> None:
        exchange.respond(Response(200, b"hot " + exchange.request.body))

    server = server_of(network, site(app), hot={"/app/hot": hot}, limits=limits)
    return server, await dial(network, await server.start(HOST, 0))


def test_hot_paths_routes_and_the_app_share_a_port_and_a_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        raw.transport.write(post(b"1", "/app/hot") + post(b"2", "/own/a") + get("/app/b?c=d"))
        answers = await raw.until(b'"name":"b"')
        assert b"hot 1" in answers
        assert b"own 2" in answers
        raw.transport.write(get("/nowhere"))
        assert b"HTTP/1.1 404 " in await raw.until(b"Not Found", times=2)  # reason and body
        raw.transport.write(post(b"", "/own/unknown/deeper"))
        await raw.until(b"HTTP/1.1 404 ", times=2)
        await server.close(0)

    world.run(scenario)


def test_the_app_sees_the_request_and_the_client_the_answer(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, _ = await started(network)
        client = HttpClient(network)
        assert server._listener is not None
        url = f"http://{HOST}:{server._listener.port}/app/na%20me?a=1&b=%20"
        reply = await client.call(
            "POST", url, headers=[("X-Mine", "yes")], body=b"hello", deadline_ms=30_000
        )
        seen = msgspec.json.decode(reply.body)
        assert seen.pop("host")
        assert seen == {
            "method": "POST",
            "path": "/app/na%20me" if "%" in seen["path"] else "/app/na me",
            "name": "na me",
            "query": {"a": "1", "b": " "},
            "length": "5",
            "x": "yes",
            "body": "hello",
        }
        assert reply.header("x-app") == "yes"
        assert reply.header("x-request-id") not in {"", "theirs"}
        assert reply.header("connection") == ""  # the server owns it
        assert client.idle_links == 1
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_head_is_answered_by_the_length_without_the_body(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        raw.transport.write(get("/app/x", method="HEAD") + get("/app/y", "Connection: close"))
        first, _, rest = (await raw.until_closed()).partition(b"\r\n\r\n")
        assert b"content-length: 1" in first
        assert rest.startswith(b"HTTP/1.1 200 ")
        await server.close(0)

    world.run(scenario)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_answered_while_it_arrives(world: World, chunked: bool) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 6"
        raw.transport.write(get("/app/upper", framing, method="POST"))
        for part in (b"ab", b"cd", b"ef"):
            raw.transport.write(b"2\r\n%b\r\n" % part if chunked else part)
            await raw.until(part.upper())
        if chunked:
            raw.transport.write(b"0\r\n\r\n")
        await raw.until(b"0\r\n\r\n")
        raw.transport.write(post(b"next", "/own/a"))  # the connection carries on
        await raw.until(b"own next")
        await server.close(0)

    world.run(scenario)


def test_an_upload_larger_than_a_held_body_may_be_is_read_with_back_pressure(world: World) -> None:
    async def scenario(network: Network) -> None:
        go_on = asyncio.Event()
        sizes: list[int] = []

        async def slow(request: AppRequest) -> AppResponse:
            stream = request.stream()
            sizes.append(len(await anext(stream)))
            await go_on.wait()
            sizes.extend([len(part) async for part in stream])
            return PlainTextResponse(f"got {sum(sizes)}")

        app = Starlette(routes=[Route("/slow", slow, methods=["POST"])])
        limits = ServerLimits(intake=IntakeLimits(body_bytes_max=1_000))
        server, raw = await started(network, app, limits=limits)
        total = 400 * len(PART)
        raw.transport.write(get("/slow", f"Content-Length: {total}", method="POST"))
        for _ in range(400):
            raw.transport.write(PART)
        before = -1
        while raw.transport.get_write_buffer_size() != before:
            before = raw.transport.get_write_buffer_size()
            await asyncio.sleep(0.2)  # until it stands still: there is no event for "nothing"
        assert before > total // 2
        assert server.held_bytes < 1 << 20
        go_on.set()
        await raw.until(b"got %d" % total)
        await server.close(0)

    world.run(scenario)


def test_a_form_with_a_file_is_read(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            + b"y" * 300_000
            + b"\r\n--b--\r\n"
        )
        raw.transport.write(
            post(body, "/app/form", "Content-Type: multipart/form-data; boundary=b")
        )
        assert b'{"name":"a.jsonl","size":300000}' in await raw.until(b'"size"')
        await server.close(0)

    world.run(scenario)


def test_a_client_that_expects_100_gets_it_before_its_body_is_streamed(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        headers = ("Content-Length: 3", "Expect: 100-continue")
        raw.transport.write(get("/app/upper", *headers, method="POST"))
        assert await raw.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.transport.write(b"abc")
        await raw.until(b"ABC")
        await server.close(0)

    world.run(scenario)


def test_a_slow_reader_holds_the_app_back(world: World) -> None:
    async def scenario(network: Network) -> None:
        produced = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal produced
            for _ in range(400):
                produced += 1
                yield PART

        async def large(request: AppRequest) -> AppResponse:
            return StreamingResponse(parts())

        server, raw = await started(network, Starlette(routes=[Route("/large", large)]))
        raw.transport.pause_reading()
        raw.transport.write(get("/large"))
        before = -1
        while produced != before or not produced:
            before = produced
            await asyncio.sleep(0.2)  # until it stands still: there is no event for "nothing"
        assert produced < 200
        raw.transport.resume_reading()
        await raw.until(b"0\r\n\r\n")
        assert produced == 400
        await server.close(0)

    world.run(scenario)


def test_a_client_that_leaves_is_a_disconnect_for_who_reads_its_body(world: World) -> None:
    async def scenario(network: Network) -> None:
        seen = asyncio.Event()

        async def read(request: AppRequest) -> AppResponse:
            try:
                await request.body()
            except ClientDisconnect:
                seen.set()
                raise
            return PlainTextResponse("whole")

        server, raw = await started(
            network, Starlette(routes=[Route("/read", read, methods=["POST"])])
        )
        raw.transport.write(get("/read", "Content-Length: 100", method="POST") + b"half")
        await asyncio.sleep(0.1)
        raw.transport.abort()
        await seen.wait()
        await server.close(0)
        assert server.connections == 0

    world.run(scenario)


def test_a_client_that_leaves_ends_the_stream_it_read(world: World) -> None:
    async def scenario(network: Network) -> None:
        closed = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: token\n\n"
                    await asyncio.sleep(0.001)
            finally:
                closed.set()

        async def events(request: AppRequest) -> AppResponse:
            return StreamingResponse(parts(), media_type="text/event-stream")

        server, raw = await started(network, Starlette(routes=[Route("/events", events)]))
        raw.transport.write(get("/events"))
        await raw.until(b"token")
        raw.transport.abort()
        await closed.wait()
        await server.close(0)

    world.run(scenario)


def test_an_app_that_goes_on_after_its_client_left_is_cancelled(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        started_at, cancelled = asyncio.Event(), asyncio.Event()

        async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
            started_at.set()
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        server, raw = await started(network, stubborn)
        raw.transport.write(get("/x"))
        await started_at.wait()
        left_at = asyncio.get_running_loop().time()
        raw.transport.abort()
        await cancelled.wait()
        assert 5 <= asyncio.get_running_loop().time() - left_at < 6
        await server.close(0)

    virtual.run(scenario)


def test_a_crash_in_the_app_is_a_500(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        raw.transport.write(get("/app/crash"))
        answer = await raw.until(b"HTTP/1.1 500 ")
        assert b"private detail" not in answer
        await server.close(0)

    world.run(scenario)
