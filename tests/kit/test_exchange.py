"""Hot handlers: answers by callbacks, without a task, on sockets and in memory."""

import asyncio
from dataclasses import replace

import msgspec
import pytest
from tests.kit.world import (
    HOST,
    MemoryWorld,
    Raw,
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
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import (
    JSON_HEADERS,
    SSE_HEADERS,
    Request,
    Response,
    Stream,
    encode_fields,
)
from penstock.kit.wire.limits import ServerLimits
from penstock.kit.wire.server import Server

PATH = "/hot"


def parrot(exchange: Exchange) -> None:
    exchange.respond(Response(200, b"<" + exchange.request.body + b">", JSON_HEADERS))


class Kept:
    """A hot handler that keeps its exchanges for the test to answer."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.came = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone_count = 0

    def __call__(self, exchange: Exchange) -> None:
        exchange.on_gone = self._on_gone
        self.exchanges.append(exchange)
        self.came.set()

    def _on_gone(self) -> None:
        self.gone_count += 1
        self.gone.set()


async def kept(network: Network, limits: ServerLimits | None = None) -> tuple[Kept, Server, Raw]:
    """A server that keeps the one request that was just made."""
    hot = Kept()
    server = server_of(network, echo, hot={PATH: hot}, limits=limits)
    raw = await dial(network, await server.start(HOST, 0))
    raw.transport.write(post(b"{}", PATH))
    await hot.came.wait()
    return hot, server, raw


def test_a_hot_path_takes_posts_and_leaves_everything_else_to_the_handler(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, hot={PATH: parrot})
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(post(b"a", PATH))
        assert b"x-path" not in await raw.until(b"<a>")
        raw.transport.write(get(PATH))
        assert b"x-path: /hot\r\n" in await raw.until(b"x-method: GET")
        raw.transport.write(post(b"b", "/hot/er"))
        assert b"x-path: /hot/er\r\n" in await raw.until(b"x-method: POST")
        raw.transport.write(post(b"c", f"{PATH}?query=1"))
        await raw.until(b"<c>")
        await server.close(0)

    world.run(scenario)


def test_a_request_reaches_a_hot_handler_whole_however_it_was_cut(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo, hot={PATH: parrot})
        raw = await dial(network, await server.start(HOST, 0))
        whole = post(b"x" * 300, PATH)
        for at in range(0, len(whole), 50):
            raw.transport.write(whole[at : at + 50])
            await asyncio.sleep(0)
        await raw.until(b"<" + b"x" * 300 + b">")
        assert server.held_bytes == 0
        await server.close(0)

    world.run(scenario)


def test_an_answer_is_one_write_and_so_is_each_piece_of_a_stream(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        def hot(exchange: Exchange) -> None:
            if exchange.request.body == b"whole":
                exchange.respond_encoded(200, encode_fields(JSON_HEADERS), b"{}")
                return
            exchange.open_stream(200, SSE_HEADERS)
            exchange.write(b"one")
            exchange.write(b"")
            exchange.write(b"two")
            exchange.close_stream(b"last")

        server = server_of(network, echo, hot={PATH: hot})
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(post(b"whole", PATH))
        await raw.until(b"{}")
        assert len(raw.reads) == 1
        raw.transport.write(post(b"stream", PATH))
        await raw.until(b"0\r\n\r\n")
        assert raw.reads[1].endswith(b"\r\n\r\n")
        assert raw.reads[2:] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"4\r\nlast\r\n0\r\n\r\n"]
        await server.close(0)

    virtual.run(scenario)


def test_an_answer_may_come_later_from_another_callback(world: World) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        exchange = hot.exchanges[0]
        loop = asyncio.get_running_loop()
        loop.call_soon(exchange.open_stream, 200, SSE_HEADERS)
        loop.call_soon(exchange.write, b"data: 1\n\n")
        loop.call_soon(exchange.close_stream)
        await raw.until(b"0\r\n\r\n")
        assert exchange.is_over
        raw.transport.write(get("/next"))
        await raw.until(b"x-path: /next")
        raw.transport.close()
        await raw.until_closed()
        assert hot.gone_count == 0  # it was answered before it left
        await server.close(0)

    world.run(scenario)


def test_thousands_of_pipelined_requests_are_answered_at_once_in_order(world: World) -> None:
    """Each answer starts the next request: that must not grow the stack."""

    async def scenario(network: Network) -> None:
        server = server_of(network, echo, hot={PATH: parrot})
        raw = await dial(network, await server.start(HOST, 0))
        count = 3_000
        raw.transport.write(b"".join(post(b"%d" % n, PATH) for n in range(count)))
        answers = await raw.until(b">", times=count)
        places = [answers.index(b"<%d>" % n) for n in range(count)]
        assert places == sorted(places)
        await server.close(0)

    world.run(scenario)


def test_a_request_behind_a_running_one_waits_its_turn(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        raw.transport.write(post(b"second", "/other") + post(b"third", PATH))
        await asyncio.sleep(1)
        assert len(hot.exchanges) == 1
        hot.exchanges[0].respond(Response(200, b"first"))
        while len(hot.exchanges) < 2:
            await asyncio.sleep(0.01)
        hot.exchanges[1].respond(Response(200, b"done"))
        answers = await raw.until(b"done")
        assert answers.index(b"first") < answers.index(b"second") < answers.index(b"done")
        await server.close(0)

    virtual.run(scenario)


@pytest.mark.parametrize("opened", [False, True])
def test_a_client_that_leaves_is_told_once_and_later_writes_go_nowhere(
    world: World, opened: bool
) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        exchange = hot.exchanges[0]
        if opened:
            exchange.open_stream(200, SSE_HEADERS)
            exchange.write(b"data: 1\n\n")
            await raw.until(b"data: 1")
        raw.transport.abort()
        await hot.gone.wait()
        assert exchange.is_over
        if not opened:
            exchange.open_stream(200, SSE_HEADERS)
        exchange.write(b"data: 2\n\n")
        exchange.close_stream()
        exchange.respond(Response(200))
        exchange.cut()
        await server.close(0)
        assert (hot.gone_count, server.connections, server.held_bytes) == (1, 0, 0)

    world.run(scenario)


def test_a_client_that_closes_only_its_half_has_left(world: World) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        raw.transport.write_eof()
        await hot.gone.wait()
        await raw.until_closed()
        assert server.connections == 0
        await server.close(0)

    world.run(scenario)


def test_a_cut_exchange_is_seen_as_broken_and_tells_nobody(world: World) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        hot.exchanges[0].open_stream(200, SSE_HEADERS)
        hot.exchanges[0].write(b"data: 1\n\n")
        await raw.until(b"data: 1")
        hot.exchanges[0].cut()
        assert b"0\r\n\r\n" not in await raw.until_closed()
        await server.close(0)
        assert hot.gone_count == 0

    world.run(scenario)


def test_a_crash_in_a_hot_handler_is_a_500_and_in_its_stream_a_cut(world: World) -> None:
    async def scenario(network: Network) -> None:
        def hot(exchange: Exchange) -> None:
            if exchange.request.body == b"late":
                exchange.open_stream(200, SSE_HEADERS)
                exchange.write(b"data: 1\n\n")
            raise KeyError("private detail")

        metrics = Metrics()
        server = server_of(network, echo, hot={PATH: hot}, metrics=metrics)
        port = await server.start(HOST, 0)
        early, late = await dial(network, port), await dial(network, port)
        early.transport.write(post(b"early", PATH))
        late.transport.write(post(b"late", PATH))
        head, _, body = (await early.until_closed()).partition(b"\r\n\r\n")
        error = msgspec.json.decode(body)["error"]
        assert head.startswith(b"HTTP/1.1 500 ")
        assert f"x-request-id: {error['request_id']}".encode() in head
        assert b"private detail" not in body
        assert b"0\r\n\r\n" not in await late.until_closed()
        assert metrics.value("task_crashes_total", task="hot") == 2
        await server.close(0)

    world.run(scenario)


def test_a_header_that_would_split_the_answer_is_a_500(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        def hot(exchange: Exchange) -> None:
            headers = (("x-copied", "a\r\nset-cookie: evil=1"),)
            if exchange.request.body == b"stream":
                exchange.open_stream(200, headers)
            exchange.respond(Response(200, b"", headers))

        server = server_of(network, echo, hot={PATH: hot})
        port = await server.start(HOST, 0)
        for body in (b"stream", b"whole"):
            raw = await dial(network, port)
            raw.transport.write(post(body, PATH))
            answer = await raw.until_closed()
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"evil" not in answer
        await server.close(0)

    virtual.run(scenario)


def test_a_cold_case_is_handed_to_a_coroutine(world: World) -> None:
    async def scenario(network: Network) -> None:
        cancelled = asyncio.Event()

        async def slow(request: Request) -> Response | Stream:
            if request.body == b"wait":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            await asyncio.sleep(0)
            return Response(200, b"(" + request.body + b")")

        server = server_of(network, echo, hot={PATH: lambda exchange: exchange.hand_to(slow)})
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(post(b"a", PATH) + post(b"b", PATH))
        answers = await raw.until(b"(b)")
        assert answers.index(b"(a)") < answers.index(b"(b)")
        raw.transport.write(post(b"wait", PATH))
        await asyncio.sleep(0.1)
        raw.transport.abort()
        await cancelled.wait()
        await server.close(0)

    world.run(scenario)


def test_an_http_1_0_client_gets_a_stream_until_the_connection_ends(world: World) -> None:
    async def scenario(network: Network) -> None:
        def hot(exchange: Exchange) -> None:
            exchange.open_stream(200, SSE_HEADERS)
            exchange.write(b"one")
            exchange.close_stream(b"two")

        server = server_of(network, echo, hot={PATH: hot})
        raw = await dial(network, await server.start(HOST, 0))
        raw.transport.write(b"POST /hot HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = (await raw.until_closed()).partition(b"\r\n\r\n")
        assert body == b"onetwo"
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        await server.close(0)

    world.run(scenario)


def test_a_stream_of_announced_length_is_held_to_it(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        def hot(exchange: Exchange) -> None:
            exchange.open_stream(200, (), length=4)
            exchange.write(exchange.request.body)
            exchange.close_stream()

        server = server_of(network, echo, hot={PATH: hot})
        port = await server.start(HOST, 0)
        good = await dial(network, port)
        good.transport.write(post(b"four", PATH))
        assert b"content-length: 4\r\n" in await good.until(b"four")
        for body in (b"short"[:3], b"longer"):
            raw = await dial(network, port)
            raw.transport.write(post(body, PATH))
            assert b"longer" not in await raw.until_closed()
        await server.close(0)

    virtual.run(scenario)


def test_a_draining_server_closes_what_is_idle_and_answers_what_runs(world: World) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        exchange = hot.exchanges[0]
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(server.drain())
            while not server.draining:
                await asyncio.sleep(0)
            exchange.respond(Response(200, b"done"))
            answer = await raw.until_closed()
        assert draining.done()
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"done")
        await server.close(0)

    world.run(scenario)


def test_bodies_that_hot_handlers_work_on_count_against_the_common_bound(
    virtual: MemoryWorld,
) -> None:
    async def scenario(network: Network) -> None:
        limits = replace(small_limits(body=1_000), bodies_bytes_max=1_500)
        hot = Kept()
        server = server_of(network, echo, hot={PATH: hot}, limits=limits)
        port = await server.start(HOST, 0)
        first, second = await dial(network, port), await dial(network, port)
        first.transport.write(post(b"a" * 900, PATH))
        await hot.came.wait()
        assert server.held_bytes == 900
        second.transport.write(post(b"b" * 900, PATH)[:-100])
        assert (await second.until_closed()).startswith(b"HTTP/1.1 503 ")
        hot.exchanges[0].respond(Response(200, b"done"))
        await first.until(b"done")
        assert server.held_bytes == 0
        await server.close(0)

    virtual.run(scenario)
