"""A late first byte is hedged with a second order, within a budget; one of the two is paid."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import (
    World,
    chat,
    play,
)

from penstock.gateway.config import Bounds
from penstock.gateway.hedging import SAMPLES_MIN
from penstock.kit.errors import DeadlinePassed
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome

WORDS = "Water turns the wheel."


def asking(number: int, *, stream: bool = False) -> dict[str, Any]:
    """Questions of one size that no cache has seen, so that they go to either miner."""
    words = f"{number:04d} what does water do? " * 20
    return chat(stream=stream, messages=[{"role": "user", "content": words}])


async def warmed(world: World) -> None:
    """Two miners, and enough answers to know how long one takes."""
    for name in ("m1", "m2"):
        miner = await world.add_miner(name)
        miner.default = Script(word_ms=1)
        miner.room = 20
        await world.put_offer(miner)
    for number in range(SAMPLES_MIN):
        assert (await world.post(asking(number))).status == 200


def test_a_late_first_byte_is_hedged_and_the_slower_one_is_cancelled() -> None:
    async def scenario(world: World) -> None:
        await warmed(world)
        world.miners["m1"].default = Script(word_ms=20_000)
        loop, slowest_s, hedged = asyncio.get_running_loop(), 0.0, 0
        for number in range(20, 32):
            started = loop.time()
            reply = await world.post(asking(number))
            slowest_s = max(slowest_s, loop.time() - started)
            assert reply.status == 200
            assert reply.header("x-penstock-instance") == "m2-1"
        hedged = int(world.gateway.metrics.value("gateway_hedges_total"))
        assert hedged > 0
        assert slowest_s < 5
        assert sum(len(miner.cancels) for miner in world.miners.values()) == hedged
        await world.at_rest()
        outcomes = world.outcomes()
        assert outcomes.count(Outcome.COMPLETE) == SAMPLES_MIN + 12
        assert outcomes.count(Outcome.CLIENT_CANCELLED) == hedged

    play(scenario, bounds=Bounds(hedge_ppm=1_000_000))


def test_a_hedged_stream_is_whole_and_paid_once() -> None:
    async def scenario(world: World) -> None:
        await warmed(world)
        for number in range(SAMPLES_MIN):
            await world.hear(asking(number, stream=True))
        await world.at_rest()
        before = world.charged_nano()
        world.miners["m1"].default = Script(act=Act.HANG)
        for number in range(20, 28):
            heard = await world.hear(asking(number, stream=True))
            assert heard.text == WORDS
            assert heard.headers["x-penstock-instance"] == "m2-1"
            before += heard.word("countersign")["charge_nano"]
        await world.at_rest()
        assert world.charged_nano() == before

    play(scenario, bounds=Bounds(hedge_ppm=1_000_000))


@pytest.mark.parametrize("leave", [False, True])
def test_both_orders_of_a_hedge_may_fail_or_lose_their_client(*, leave: bool) -> None:
    async def scenario(world: World) -> None:
        await warmed(world)
        for miner in world.miners.values():
            miner.default = Script(act=Act.HANG)
        if leave:
            with pytest.raises(DeadlinePassed):
                await world.post(asking(99), deadline_ms=2_000)
        else:
            assert (await world.post(asking(99))).status == 502
        await world.at_rest()
        assert world.outcomes()[SAMPLES_MIN:] == [
            Outcome.CLIENT_CANCELLED if leave else Outcome.MINER_FAILED
        ] * len(world.outcomes()[SAMPLES_MIN:])
        assert len(world.outcomes()) == SAMPLES_MIN + 2

    play(
        scenario,
        bounds=Bounds(hedge_ppm=1_000_000, tries_max=2),
        params=replace(LOCAL, order_ttl_ms=6_000),
    )


def test_without_a_budget_nothing_is_hedged() -> None:
    async def scenario(world: World) -> None:
        await warmed(world)
        for miner in world.miners.values():
            miner.default = Script(word_ms=2_000)
        assert (await world.post(chat())).status == 200
        assert world.gateway.metrics.value("gateway_hedges_total") == 0

    play(scenario)
