"""What a gateway on a real socket does with connections that misbehave: nothing stays behind of them,
and nobody else waits for his answer.
"""

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.stations.gateway.real_world import (
    CHAT,
    DEADLINE_S,
    HOST,
    head_of,
    real_world,
)
from tests.stations.gateway.refusals import PATHS, check_refusal, spelled, still_serves
from tests.stations.gateway.script import Script

IDLE_CONNECTIONS = 10_000
SPARE_FILES = 300


@pytest.mark.parametrize("path", PATHS)
async def test_half_a_request_is_told_that_it_took_too_long(path: str) -> None:
    async with real_world(head_deadline_ms=300, body_deadline_ms=300) as world:
        body = await world.dial()
        await body.send(head_of(path, length=100) + b'{"model":')
        heard = await body.hear()
        check_refusal(heard, path, statuses=(408,))
        head = await world.dial()
        await head.send(head_of(path, length=100)[:-10])
        assert (await head.hear()).status == 408
        await still_serves(world)


async def test_a_client_that_drips_its_body_is_cut_off_in_the_end() -> None:
    async with real_world(body_deadline_ms=400) as world:
        line = await world.dial()
        await line.send(head_of(CHAT, length=1_000))
        ended = asyncio.ensure_future(line.hear())
        for _ in range(200):
            if ended.done():
                break
            await line.send(b" ")
            await asyncio.sleep(0.02)
        assert (await ended).status == 408
        await still_serves(world)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
async def test_a_socket_that_is_half_closed_in_mid_request_is_forgotten(
    path: str, part: float
) -> None:
    async with real_world() as world:
        request = head_of(path, length=len(spelled(path))) + spelled(path)
        line = await world.dial()
        await line.send(request[: int(len(request) * part)])
        line.writer.write_eof()
        await line.hear_end()
        await still_serves(world)


async def test_a_client_that_leaves_in_mid_answer_leaves_nothing_behind() -> None:
    async with real_world() as world:
        world.miner.default = Script(words=("word",) * 200, word_ms=20)
        for path in PATHS:
            line = await world.dial()
            await line.send(head_of(path, length=len(spelled(path, stream=True))))
            await line.send(spelled(path, stream=True))
            async with asyncio.timeout(DEADLINE_S):
                await line.reader.readuntil(b"\r\n\r\n")
                await line.reader.read(100)
            await line.close()
        await world.at_rest()
        assert len(world.ledger.judgements) == len(PATHS)
        world.miner.default = Script()
        await still_serves(world)


async def test_a_client_that_does_not_read_its_stream_is_given_up() -> None:
    async with real_world(write_bytes_high=1_024, stall_deadline_ms=500) as world:
        world.miner.default = Script(words=("word " * 2_000,) * 2_000, word_ms=0)
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.connect((HOST, world.port))
            body = spelled(CHAT, stream=True, max_tokens=10_000)
            raw.sendall(head_of(CHAT, length=len(body)) + body)
            async with asyncio.timeout(DEADLINE_S):
                while not world.gateway.passages:
                    await asyncio.sleep(0.01)
                while world.gateway.passages or world.server.connections:
                    await asyncio.sleep(0.02)
        world.miner.default = Script()
        await still_serves(world)


async def test_requests_sent_all_at_once_on_one_line_are_answered_in_order() -> None:
    async with real_world() as world:
        line = await world.dial()
        bad, fine = b'{"model":', spelled(CHAT)
        for body in (bad, fine, bad, fine):
            await line.send(head_of(CHAT, length=len(body)) + body)
        assert [(await line.hear()).status for _ in range(4)] == [400, 200, 400, 200]


@contextmanager
def many_files() -> Iterator[int]:
    """As many open files as the machine allows; afterwards the old limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
async def test_thousands_of_idle_connections_cost_nobody_his_answer() -> None:
    """Slow: it opens up to ten thousand connections, both ends of each in this process."""
    with many_files() as files:
        count = min(IDLE_CONNECTIONS, (files - SPARE_FILES) // 2)
        async with real_world() as world:
            idle: list[socket.socket] = []

            def open_some(most: int) -> None:
                idle.extend(
                    socket.create_connection((HOST, world.port), timeout=DEADLINE_S)
                    for _ in range(most)
                )

            try:
                while len(idle) < count:
                    await asyncio.to_thread(open_some, min(500, count - len(idle)))
                async with asyncio.timeout(DEADLINE_S):
                    while world.server.connections < count:
                        await asyncio.sleep(0.02)
                await still_serves(world)
                assert world.server.connections >= count
            finally:
                for one in idle:
                    one.close()
            await still_serves(world)


async def test_connections_beyond_the_bound_are_turned_away() -> None:
    async with real_world(connections_max=5) as world:
        for _ in range(5):
            await world.dial()
        async with asyncio.timeout(DEADLINE_S):
            while world.server.connections < 5:
                await asyncio.sleep(0.01)
        one_more = await world.dial()
        heard = await one_more.hear()
        assert (heard.status, heard.error["code"]) == (503, "connections_full")
        assert heard.headers["retry-after"] == "1"
        assert await one_more.hear_end() == b""
        await world.alone()
        await still_serves(world)


async def test_connections_of_any_age_are_closed_when_they_were_idle_for_too_long() -> None:
    async with real_world(idle_deadline_ms=700) as world:
        lines = []
        for _ in range(5):
            lines.append(await world.dial())
            await asyncio.sleep(0.12)
        assert [await line.hear_end() for line in lines] == [b""] * 5
