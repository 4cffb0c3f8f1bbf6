"""Apps and clients that break the protocol: a 500, or a cut, and nothing else suffers."""

import asyncio
from typing import Any

import pytest
from tests.kit.test_asgi import started
from tests.kit.world import HOST, MemoryWorld, World, dial, get, server_of

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Network
from penstock.kit.wire.asgi import AsgiSite, Message, Receive, Send


async def nothing(scope: Message, receive: Receive, send: Send) -> None:
    return


async def no_start(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


async def two_starts(scope: Message, receive: Receive, send: Send) -> None:
    for _ in range(2):
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def splitting(scope: Message, receive: Receive, send: Send) -> None:
    headers = [(b"x", b"a\r\nset-cookie: evil=1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def unknown(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


@pytest.mark.parametrize("app", [nothing, no_start, two_starts, splitting, unknown])
def test_an_app_that_breaks_the_protocol_is_a_500(virtual: MemoryWorld, app: Any) -> None:
    async def scenario(network: Network) -> None:
        metrics = Metrics()
        server = server_of(network, AsgiSite(app), metrics=metrics)
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(get("/x"))
        answer = await raw.until_closed()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"evil" not in answer
        assert metrics.value("task_crashes_total", task="exchange") == 1
        await server.close(0)

    virtual.run(scenario)


def test_an_app_that_stops_in_the_middle_cuts_its_answer(virtual: MemoryWorld) -> None:
    async def half(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def scenario(network: Network) -> None:
        server = server_of(network, AsgiSite(half))
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(get("/x"))
        answer = await raw.until_closed()
        assert b"half" in answer
        assert b"0\r\n\r\n" not in answer
        await server.close(0)

    virtual.run(scenario)


def test_an_answer_before_the_body_has_ended_closes_the_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        raw.transport.write(get("/nowhere", "Content-Length: 1000000", method="POST") + b"begun")
        assert b"HTTP/1.1 404 " in await raw.until_closed()
        await server.close(0)

    world.run(scenario)


def test_broken_framing_in_a_streamed_body_cuts_the_connection(world: World) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        chunked = get("/app/upper", "Transfer-Encoding: chunked", method="POST")
        raw.transport.write(chunked + b"2\r\nab\r\n")
        await raw.until(b"AB")
        raw.transport.write(b"zz\r\n" + get("/own/smuggled"))
        answer = await raw.until_closed()
        assert b"own" not in answer
        assert b"0\r\n\r\n" not in answer
        await server.close(0)

    world.run(scenario)


def test_a_streamed_body_that_stands_still_is_cut_after_the_body_deadline(
    virtual: MemoryWorld,
) -> None:
    async def scenario(network: Network) -> None:
        server, raw = await started(network)
        raw.transport.write(get("/app/upper", "Content-Length: 100", method="POST") + b"a")
        await raw.until(b"A")
        began = asyncio.get_running_loop().time()
        await raw.until_closed()
        assert 59 < asyncio.get_running_loop().time() - began < 62
        await server.close(0)

    virtual.run(scenario)
