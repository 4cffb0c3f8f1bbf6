"""Engines that hang, lie, flood and die, clocks that jump, disks that fill up, gateways that never answer:
the node stays up, nothing is left behind, and the operator sees why.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.stations.miner.scripted_engine import Answering, chunk, streaming, usage_chunk
from tests.stations.miner.world import CONFIG, World, chat_body, playing

from penstock.kit.clock import OffsetClock
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.miner.config import Bounds
from penstock.miner.instance import LOST_MAX
from penstock.miner.jobs import EVENTS_PER_TOKEN_MAX, EVENTS_SPARE
from penstock.miner.ports import Ports
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.receipts import Outcome
from penstock.spec.units import NO_UNITS

DONE = b"data: [DONE]\n\n"
GOOD = (chunk("fine", finish="stop"), usage_chunk(3, 1), DONE)
HOUR_MS = 3_600_000


class Fickle:
    """An engine that does as it is told by the test, and then answers well again."""

    def __init__(self, misdeed: Callable[[], AsyncIterator[bytes]]) -> None:
        self.misdeed = misdeed
        self.is_good = False
        self.open = 0

    async def __call__(self, _request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, self._body())

    async def _body(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            if self.is_good:
                for part in GOOD:
                    yield part
            else:
                async for part in self.misdeed():
                    yield part
        finally:
            self.open -= 1


def with_engine(handler: Answering) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        world.scripted(handler)

    return prepare


async def hangs() -> AsyncIterator[bytes]:
    yield chunk("a")
    await asyncio.Event().wait()


async def never_begins() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def never_ends() -> AsyncIterator[bytes]:
    while True:
        yield chunk("more")


async def pings_for_ever() -> AsyncIterator[bytes]:
    while True:
        yield b": ping\n\n"
        await asyncio.sleep(0.2)


async def grows_for_ever() -> AsyncIterator[bytes]:
    while True:
        yield chunk("x" * 20_000)


async def one_huge_line() -> AsyncIterator[bytes]:
    yield b"data: "
    while True:
        yield b"x" * 65_536


async def dies() -> AsyncIterator[bytes]:
    yield chunk("a")
    raise ConnectionResetError


async def babbles() -> AsyncIterator[bytes]:
    yield chunk("a")
    yield b"data: \xff\xfe{{{\n\n"


MISDEEDS = [
    (hangs, "no chunk within"),
    (never_begins, "no chunk within"),
    (never_ends, "no end"),
    (pings_for_ever, "deadline"),
    (grows_for_ever, "larger than"),
    (one_huge_line, "1048576"),
    (dies, "closed the connection"),
    (babbles, "error in mid-stream"),
]


@pytest.mark.parametrize(("misdeed", "why"), MISDEEDS, ids=lambda one: getattr(one, "__name__", ""))
def test_whatever_an_engine_does_the_order_ends_unpaid_and_the_next_one_is_served(
    misdeed: Callable[[], AsyncIterator[bytes]], why: str
) -> None:
    engine = Fickle(misdeed)

    def prepare(world: World) -> None:
        bounds = Bounds(answer_bytes_max=500_000)
        world.config = msgspec.structs.replace(CONFIG, bounds=bounds)
        world.scripted(engine)

    async def scenario(world: World) -> None:
        await world.ready()
        deadline_ms = world.clock.now_ms() + 30_000
        answer = await world.call(chat_body(stream=True), deadline_ms=deadline_ms)
        assert answer.receipt.outcome is Outcome.MINER_FAILED
        assert answer.receipt.units == NO_UNITS
        assert answer.receipt.charge_nano == 0
        [instance] = (await world.health())["instances"]
        assert instance["why"].startswith("its engine lost 1 orders in a row")
        assert why in instance["why"]
        assert instance["running"] == 0
        assert world.kept == []
        await world.until(lambda: engine.open == 0)
        engine.is_good = True
        again = await world.call(chat_body(stream=True))
        assert again.receipt.outcome is Outcome.COMPLETE
        [instance] = (await world.health())["instances"]
        assert (instance["why"], instance["running"]) == ("", 0)

    playing(scenario, prepare=prepare)


def test_a_stream_may_have_some_events_more_than_units_were_ordered() -> None:
    parts = [chunk("a")] * (4 * EVENTS_PER_TOKEN_MAX + EVENTS_SPARE - 8)

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True), completion_max=4)
        assert answer.receipt.outcome is Outcome.COMPLETE
        assert answer.receipt.units.completion == 1, "as the engine told"

    playing(scenario, prepare=with_engine(streaming(*parts, *GOOD)))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 2**60, "completion_tokens": 2**60},
        {"prompt_tokens": -5, "completion_tokens": -1},
        {"prompt_tokens": "9", "completion_tokens": 1e9},
        {"prompt_tokens": True, "completion_tokens": None},
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}},
    ],
)
def test_a_lie_about_units_never_leaves_the_ceilings_of_the_order(usage: dict[str, Any]) -> None:
    told = msgspec.json.encode({"id": "e", "choices": [], "usage": usage})
    parts = (chunk("a", finish="stop"), b"data: %b\n\n" % told, DONE)

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True), prompt_max=20, completion_max=5)
        units = answer.receipt.units
        assert 0 <= units.cached <= units.prompt <= 20
        assert 1 <= units.completion <= 5
        answer.judged(Outcome.COMPLETE, charge_nano=answer.receipt.charge_nano)

    playing(scenario, prepare=with_engine(streaming(*parts)))


def test_an_instance_whose_engine_keeps_failing_takes_one_order_at_a_time_until_it_answers() -> (
    None
):
    engine = Fickle(dies)

    async def scenario(world: World) -> None:
        await world.ready()
        before = world.market.offers[-1].room
        for _ in range(LOST_MAX):
            await world.call(chat_body(stream=True))
        offers = len(world.market.offers)
        await world.until(lambda: len(world.market.offers) > offers + 1)
        assert before > 1
        assert world.market.offers[-1].room == 1
        engine.is_good = True
        assert (await world.call(chat_body(stream=True))).receipt.outcome is Outcome.COMPLETE
        offers = len(world.market.offers)
        await world.until(lambda: len(world.market.offers) > offers + 1)
        assert world.market.offers[-1].room == before

    playing(scenario, prepare=with_engine(engine))


def test_an_oversize_body_is_refused_before_it_is_read_and_an_oversize_prompt_by_the_engine() -> (
    None
):
    async def too_long(_request: Request) -> Response:
        told = {"error": {"message": "too many tokens", "type": "exceed_context_size_error"}}
        return Response(400, msgspec.json.encode(told), (("content-type", "application/json"),))

    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, bounds=Bounds(body_bytes_max=100_000))
        world.scripted(too_long)

    async def scenario(world: World) -> None:
        await world.ready()
        signed = await world.call(chat_body("y" * 90_000))
        assert (signed.status, signed.error) == (400, "context_length_exceeded")
        assert signed.receipt.units == NO_UNITS
        reply = await world.client.call(
            "POST",
            "http://miner:9000/v1/chat/completions",
            headers=(("x-penstock-order", "e30"),),
            body=chat_body("y" * 200_000),
            deadline_ms=10_000,
        )
        assert reply.status == 413
        [instance] = (await world.health())["instances"]
        assert (instance["why"], instance["running"]) == ("", 0)

    playing(scenario, prepare=prepare)


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_that_jumps_an_hour_is_set_right_by_the_next_beat_and_nothing_is_lost(
    jump_ms: int,
) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        before = await world.call(chat_body())
        ports = world.miner.ports
        assert isinstance(ports.clock, OffsetClock)
        ports.clock.offset_ms = jump_ms
        offers = len(world.market.offers)
        await world.until(lambda: len(world.market.offers) > offers + 2)
        assert abs(world.market.offers[-1].issued_ms - world.clock.now_ms()) < 1_000
        assert (await world.call(chat_body())).status == 200
        assert any("clock is off" in one for one in (await world.health())["problems"])
        await world.until(lambda: not len(world.miner.parts.outbox))
        claimed = {one["order"]["body"]["order_id"] for one in world.market.claims}
        assert before.receipt.order_id in claimed
        assert len(claimed) == 2

    def prepare(world: World) -> None:
        made: Callable[[], Ports] = world.ports
        world.ports = lambda: replace(made(), clock=OffsetClock(world.clock))  # type: ignore[method-assign]

    playing(scenario, prepare=prepare)


def test_a_full_disk_stops_no_order_and_is_told() -> None:
    def prepare(world: World) -> None:
        world.store = MemoryOutbox(bytes_max=100)

    async def scenario(world: World) -> None:
        await world.ready()
        assert (await world.call(chat_body())).status == 200
        assert (await world.call(chat_body(stream=True))).receipt.outcome is Outcome.COMPLETE
        health = await world.health()
        assert any("free space on the disk" in one for one in health["problems"])
        assert health["outbox"]["claims"] == 2
        world.store.bytes_max = 1 << 20
        await world.until(lambda: len(world.market.claims) == 2)

    playing(scenario, prepare=prepare)
