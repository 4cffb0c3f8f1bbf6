"""A market that starts anew: what it knows, takes up, says again, and does not count twice."""

import asyncio
import json

from tests.market_makers import (
    ANNA,
    BEAT_MS,
    BERT,
    CHUTE,
    EPOCH_MS,
    World,
    chute_of,
    in_world,
    manifest_of,
)

from penstock.kit.tasks import Scope
from penstock.spec.canon import from_plain
from penstock.spec.messages import Targets

OFFER_KEY = "offers.anna-1"
CHUTE_KEY = f"chutes.{CHUTE.removeprefix('sha256:')}"


def targets_of(world: World, epoch: int) -> Targets:
    return from_plain(Targets, dict(world.logged())[f"targets/{epoch}"])


def test_a_new_market_knows_the_catalogue_the_targets_and_the_bounties() -> None:
    async def story(world: World) -> None:
        newer = manifest_of(instances_max=9)
        await world.market.publish(newer)
        world.market.close_epoch()
        await world.market.beat()
        world.bus = type(world.bus)()  # a bus that lost everything
        market = world.new_market()
        await market.open()
        assert market.targets == world.market.targets
        assert [one.chute for one in market.catalogue.all()] == [CHUTE, chute_of(newer)]
        assert list(world.board()) == [
            CHUTE_KEY,
            f"chutes.{chute_of(newer).removeprefix('sha256:')}",
            "targets",
        ]
        world.market = market
        await world.beat_for(1, BERT, chute=chute_of(newer))
        assert [one.miner for one in market.close_epoch().rolls[0].bounties] == [BERT.identity]

    in_world(story)


def test_words_that_were_saved_and_not_published_are_published_by_the_next_life() -> None:
    async def story(world: World) -> None:
        epoch = world.market.epoch
        world.market.close_epoch()
        world.bus.down = True
        await world.market.beat()
        world.bus.down = False
        market = world.new_market()
        await market.open()
        await market.beat()
        assert f"roll/{epoch}" in dict(world.logged())
        await market.beat()
        assert len(world.logged()) == 3

    in_world(story)


def test_offers_on_the_board_are_taken_up_and_dead_ones_removed() -> None:
    async def story(world: World) -> None:
        await world.market.offer(world.offer(BERT), delegation=None)
        await asyncio.sleep(2 * BEAT_MS / 1000)
        await world.market.offer(world.offer(ANNA), delegation=None)
        await world.bus.put("offers.nonsense", b"{")
        await world.bus.put("offers.forged", json.dumps({"kind": "offer"}).encode())
        await asyncio.sleep(2 * BEAT_MS / 1000 + 0.001)
        market = world.new_market()
        await market.open()
        async with Scope() as scope:
            scope.start("market", market.run())
            await asyncio.sleep(1.5 * BEAT_MS / 1000)
            assert set(world.board()) == {CHUTE_KEY, OFFER_KEY}
            live = market.offers.get("anna-1")
            assert live is not None
            world.market = market
            await world.beat_for(4, ANNA)
            assert live.since_ms == market.offers.standing(CHUTE)[0].since_ms
            scope.cancel()

    in_world(story)


def test_counts_from_before_the_start_are_not_counted_again() -> None:
    async def story(world: World) -> None:
        epoch = world.market.epoch
        await world.count_demand(requests=500)
        market = world.new_market()
        await market.open()
        async with Scope() as scope:
            scope.start("market", market.run())
            await asyncio.sleep(1)
            await world.count_demand(requests=507)
            await asyncio.sleep(EPOCH_MS / 1000)
            scope.cancel()
        assert targets_of(world, epoch).targets[0].requests == 7

    in_world(story)
