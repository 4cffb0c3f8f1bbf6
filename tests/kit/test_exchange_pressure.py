"""Clients that read slowly or not at all hold hot handlers back, and only so long."""

import asyncio

from tests.kit.test_exchange import kept
from tests.kit.world import (
    MemoryWorld,
    World,
    post,
)

from penstock.kit.ports import Network
from penstock.kit.wire.http import (
    SSE_HEADERS,
    Response,
)
from penstock.kit.wire.limits import ServerLimits

PATH = "/hot"


def test_a_full_client_pauses_the_source_and_a_drained_one_resumes_it(world: World) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network, ServerLimits(write_bytes_high=65_536))
        exchange = hot.exchanges[0]
        raw.transport.pause_reading()
        exchange.open_stream(200, SSE_HEADERS)
        written = 0
        while not exchange.is_full:
            exchange.write(b"x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
        writable = asyncio.Event()
        exchange.on_writable = writable.set
        raw.transport.resume_reading()
        await writable.wait()
        assert not exchange.is_full
        exchange.close_stream(b"end")
        answer = await raw.until(b"0\r\n\r\n")
        assert answer.count(b"x" * 65_536) == written // 65_536
        await server.close(0)

    world.run(scenario)


def test_a_reader_that_stands_still_is_cut_after_the_stall_deadline(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        exchange = hot.exchanges[0]
        raw.transport.pause_reading()
        exchange.open_stream(200, SSE_HEADERS)
        while not exchange.is_full:
            exchange.write(b"x" * 65_536)
        full_at = asyncio.get_running_loop().time()
        await hot.gone.wait()
        assert 60 <= asyncio.get_running_loop().time() - full_at < 61
        await server.close(0)

    virtual.run(scenario)


def test_a_whole_answer_that_is_not_read_holds_the_next_request_back(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        hot, server, raw = await kept(network)
        raw.transport.pause_reading()
        raw.transport.write(post(b"next", PATH))
        await asyncio.sleep(1)
        hot.exchanges[0].respond(Response(200, b"x" * 1_000_000))
        await asyncio.sleep(1)
        assert len(hot.exchanges) == 1
        raw.transport.resume_reading()
        while len(hot.exchanges) < 2:
            await asyncio.sleep(0.01)
        hot.exchanges[1].respond(Response(200, b"done"))
        await raw.until(b"done")
        await server.close(0)

    virtual.run(scenario)
