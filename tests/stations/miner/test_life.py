"""A miner's life: offers, clock, engines that crash, a market that is away, and the way out."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from tests.makers import MANIFEST, MINER, PRICE
from tests.stations.miner.scripted_engine import chunk, streaming
from tests.stations.miner.world import (
    CONFIG,
    HARDWARE,
    World,
    chat_body,
    playing,
)

from penstock.kit.wire.problem import problem
from penstock.miner.instance import Instance, State
from penstock.miner.timing import MarketTime
from penstock.sim.loop import VirtualClock, VirtualLoop
from penstock.spec.messages import chute_id
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome
from penstock.spec.units import PPM

DONE = b"data: [DONE]\n\n"


def one_instance(world: World) -> Instance:
    (instance,) = world.miner.parts.fleet.instances.values()
    return instance


def test_offers_are_renewed_with_a_rising_seq_and_say_who_and_where() -> None:
    async def scenario(world: World) -> None:
        await world.until(lambda: len(world.market.offers) >= 4)
        offers = world.market.offers
        assert [one.seq for one in offers] == sorted({one.seq for one in offers})
        offer = offers[-1]
        assert offer.instance == f"m-1-{MINER.identity.partition(':')[2][:8]}"
        assert (offer.endpoint, offer.device) == ("http://miner:9000", HARDWARE.device)
        assert (offer.chute, offer.price) == (chute_id(MANIFEST), PRICE)
        assert offer.room == MANIFEST.limits.parallel_max
        assert offer.valid_until_ms - offer.issued_ms == LOCAL.offer_ttl_ms
        beats = [later.issued_ms - one.issued_ms for one, later in pairwise(offers)]
        assert all(LOCAL.beat_ms <= beat < LOCAL.offer_ttl_ms for beat in beats)

    playing(scenario)


def test_the_price_follows_the_market_down_and_never_above_the_manifest() -> None:
    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, price_share_ppm=PPM // 2)
        world.market.targets = {"tiny-chat": {"instances": 1, "price_ppm": PPM // 2}}

    async def scenario(world: World) -> None:
        assert (await world.ready()).price.completion == PRICE.completion // 4
        world.market.targets = {"tiny-chat": {"instances": 1, "price_ppm": 2 * PPM}}
        await world.until(lambda: world.market.offers[-1].price.completion == PRICE.completion // 2)
        cheap = replace(PRICE, **dict.fromkeys(("completion", "prompt", "cached"), 0))
        assert (await world.call(chat_body(), price=cheap)).error == "order_underpaid"
        # The older, dearer or cheaper offer may still be in a gateway's hands.
        old = world.market.offers[0].price
        assert (await world.call(chat_body(), price=old)).status == 200
        await asyncio.sleep(30)
        assert (await world.call(chat_body(), price=old)).error == "order_underpaid"

    playing(scenario, prepare=prepare)


def test_room_shrinks_with_own_and_with_foreign_work() -> None:
    hold = asyncio.Event()

    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: one_instance(world).running == 1)
            world.engine.load = (2, 1)
            await world.until(lambda: world.market.offers[-1].room == 1)
            world.engine.load = (9, 9)
            await world.until(lambda: world.market.offers[-1].room == 0)
            assert (await world.call(chat_body())).receipt.outcome is Outcome.REFUSED
            world.engine.load = (1, 0)
            hold.set()

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a", finish="stop"), DONE, hold=hold))

    playing(scenario, prepare=prepare)


@pytest.mark.parametrize("skew_ms", [-600_000, 600_000])
def test_a_wrong_clock_is_corrected_by_the_market_and_shown(skew_ms: int) -> None:
    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, clock_skew_ms=skew_ms)

    async def scenario(world: World) -> None:
        offer = await world.ready()
        assert abs(offer.issued_ms - world.clock.now_ms()) < 1_000
        assert (await world.call(chat_body())).status == 200
        health = await world.health()
        assert health["clock"]["is_off"]
        assert abs(health["clock"]["skew_ms"] - skew_ms) < 100
        assert any("clock" in problem for problem in health["problems"])

    playing(scenario, prepare=prepare)


def test_a_slow_answer_does_not_move_the_clock() -> None:
    loop = VirtualLoop()
    own = VirtualClock(loop)
    time = MarketTime(own, skew_ms_max=2_000)
    time.learn(own.now_ms() + 500, sent_us=own.mono_us())
    assert (time.skew_ms, time.is_off) == (-500, False)
    loop.advance(60)
    time.learn(own.now_ms() + 90_000, sent_us=own.mono_us() - 30_000_000)
    assert time.skew_ms == -500
    time.learn(own.now_ms() + 9_000, sent_us=own.mono_us() - 200_000)
    assert (time.skew_ms, time.is_off) == (-9_100, True)
    loop.close()


def test_without_a_market_orders_are_still_served_and_offers_come_back() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        world.market.down = True
        await world.until(lambda: world.miner.parts.offers.why)
        assert (await world.call(chat_body())).status == 200
        assert any("market" in problem for problem in (await world.health())["problems"])
        world.market.offers.clear()
        await asyncio.sleep(60)
        world.market.down = False
        await world.until(lambda: world.market.offers, within_ms=2 * LOCAL.offer_ttl_ms)
        await world.until(lambda: not world.miner.parts.offers.why)

    playing(scenario)


def test_a_stale_offer_makes_the_seq_jump() -> None:
    async def scenario(world: World) -> None:
        first = await world.ready()
        refusal = problem(409, "stale_offer", "older than what is known")
        world.market.refuse["/v1/offers"] = refusal
        await world.until(lambda: "stale_offer" in world.miner.parts.offers.why)
        del world.market.refuse["/v1/offers"]
        await world.until(lambda: world.market.offers[-1].seq > first.seq + 3_000_000)

    playing(scenario)


def test_an_engine_that_crashes_is_withdrawn_started_again_and_offered_again() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        await world.engine.crash()
        await world.until(lambda: world.market.withdrawn)
        assert world.market.withdrawn[0].room == 0
        assert world.market.withdrawn[0].seq > world.market.offers[-1].seq
        refused = await world.call(chat_body())
        assert refused.receipt.outcome is Outcome.REFUSED
        assert one_instance(world).state is State.FAILED
        world.market.offers.clear()
        await world.ready()
        assert world.engine.starts == 2
        assert (await world.call(chat_body(stream=True))).status == 200

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a", finish="stop"), DONE))

    playing(scenario, prepare=prepare)


def test_an_engine_killed_under_a_stream_fails_that_order_and_no_other() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: one_instance(world).running)
            await asyncio.sleep(1)
            await world.engine.crash()
            answer = await task
        assert answer.data[-1]["error"]["code"] == "miner_failed"
        assert answer.receipt.outcome is Outcome.MINER_FAILED
        assert one_instance(world).running == 0

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a"), hold=asyncio.Event()))

    playing(scenario, prepare=prepare)


def test_an_engine_that_falls_silent_loses_its_offer_and_gets_it_back() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        world.engine.silent = True
        await asyncio.sleep(5)
        world.market.offers.clear()
        await asyncio.sleep(30)
        assert world.market.offers == []
        world.engine.silent = False
        await world.ready()

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a", finish="stop"), DONE))

    playing(scenario, prepare=prepare)


def test_a_stopping_miner_neither_restarts_an_engine_nor_offers_one_that_comes_late() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: one_instance(world).running)
            await asyncio.sleep(1)
            world.stop.set()
            await world.until(lambda: world.market.withdrawn)
            world.market.offers.clear()
            await world.engine.crash()
            assert (await task).receipt.outcome is Outcome.MINER_FAILED
        await asyncio.sleep(20)
        assert world.engine.starts == 1
        assert world.market.offers == []

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a"), hold=asyncio.Event()))

    playing(scenario, prepare=prepare)


def test_an_engine_that_will_not_start_is_tried_again_with_longer_waits() -> None:
    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a", finish="stop"), DONE)).fail_start = "no weights"

    async def scenario(world: World) -> None:
        await asyncio.sleep(30)
        assert 3 <= world.engine.starts <= 8
        (shown,) = (await world.health())["instances"]
        assert "no weights" in shown["why"]
        assert world.market.offers == []
        world.engine.fail_start = ""
        await world.ready()
        assert (await world.health())["status"] == "ok"

    playing(scenario, prepare=prepare)


def test_on_stop_offers_go_first_then_running_orders_end() -> None:
    hold = asyncio.Event()

    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: one_instance(world).running)
            world.stop.set()
            await world.until(lambda: world.market.withdrawn)
            assert (await world.health())["status"] == "draining"
            refused = await world.call(chat_body())
            assert refused.receipt.outcome is Outcome.REFUSED
            assert world.engine.stops == 0
            hold.set()
            answer = await task
        assert answer.receipt.outcome is Outcome.COMPLETE
        await world.until(lambda: world.engine.stops)
        claimed = [one["order"]["body"]["order_id"] for one in world.market.claims]
        assert claimed == [answer.order.body["order_id"]], "the outbox is sent once more"

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a", finish="stop"), DONE, hold=hold))

    playing(scenario, prepare=prepare)


def test_orders_that_outlast_the_drain_fail_with_a_receipt() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: one_instance(world).running)
            await asyncio.sleep(1)
            world.stop.set()
            answer = await task
        assert answer.receipt.outcome is Outcome.MINER_FAILED
        assert "stops" in answer.data[-1]["error"]["message"]

    def prepare(world: World) -> None:
        world.scripted(streaming(chunk("a"), hold=asyncio.Event()))
        deadlines = msgspec.structs.replace(CONFIG.deadlines, engine_idle_ms=3_600_000)
        world.config = msgspec.structs.replace(CONFIG, deadlines=deadlines)

    playing(scenario, prepare=prepare)


def test_a_new_manifest_under_a_wanted_name_replaces_the_old_instance() -> None:
    newer = replace(MANIFEST, source="builtin:newer")

    async def scenario(world: World) -> None:
        await world.ready()
        world.market.manifests = [newer]
        await world.until(lambda: world.market.offers[-1].chute == chute_id(newer))
        await world.until(lambda: len(world.miner.parts.fleet.instances) == 1)
        assert world.market.withdrawn[0].chute == chute_id(MANIFEST)

    playing(scenario)


def test_metrics_count_what_was_served() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        await world.call(chat_body())
        page = (await world.get("/metrics")).body.decode()
        assert 'miner_orders_total{chute_name="tiny-chat",outcome="complete"} 1' in page
        assert 'miner_completion_units_total{chute_name="tiny-chat"} 3' in page

    playing(scenario)


def test_the_delegation_of_the_owner_goes_with_every_offer() -> None:
    word = {"kind": "delegation", "body": {}, "signer": "s", "signature": "x"}

    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, delegation=word)

    async def scenario(world: World) -> None:
        await world.ready()
        assert world.market.delegated[0] == word

    playing(scenario, prepare=prepare)


def test_an_engines_own_routes_cannot_be_reached() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for path in ("/v1/models", "/sleep", "/v1/load_lora_adapter"):
            assert (await world.get(path)).status == 404

    playing(scenario)
