"""A board that holds nonsense: the market takes up what is good and is stopped by none of the rest."""

import asyncio

import pytest
from tests.market_makers import ANNA, BEAT_MS, BERT, CHUTE, World, in_world

from penstock.kit.tasks import Scope

NONSENSE = [
    b"{",
    b"null",
    b"[]",
    b'"\xff"',
    b'{"kind": "\xff\xfe"}',
    b"[" * 100_000,
    b'{"kind": ' + b'{"a":' * 50_000,
    b'{"kind": "offer", "body": {}, "signer": "", "signature": ""}',
    b"1e400",
    b"\x00",
]
SETTLED_S = 1.5 * BEAT_MS / 1000


async def lived(world: World) -> None:
    """A new market's first beats over the board as it is."""
    world.market = world.new_market()
    await world.market.open()
    async with Scope() as scope:
        scope.start("market", world.market.run())
        await asyncio.sleep(SETTLED_S)
        scope.cancel()


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_an_offer_that_cannot_be_read_does_not_hide_the_good_one_after_it(nonsense: bytes) -> None:
    async def story(world: World) -> None:
        await world.bus.put("offers.aaa", nonsense)
        await world.market.offer(world.offer(ANNA), delegation=None)
        await world.bus.put("offers.zzz", nonsense)
        await lived(world)
        assert [one.offer.instance for one in world.market.offers] == ["anna-1"]
        assert {key for key in world.board() if key.startswith("offers.")} == {"offers.anna-1"}

    in_world(story)


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_count_that_cannot_be_read_is_counted_as_such_and_changes_nothing(
    nonsense: bytes,
) -> None:
    async def story(world: World) -> None:
        async with Scope() as scope:
            scope.start("market", world.market.run())
            await asyncio.sleep(3 * BEAT_MS / 1000)
            await world.bus.put("demand.gateway.x", nonsense)
            await world.count_demand(requests=3)
            await asyncio.sleep(SETTLED_S)
            scope.cancel()
        assert world.market.metrics.value("market_demand_bad_total") == 1
        assert world.market._usage.close()[CHUTE].requests == 3

    in_world(story)


@pytest.mark.parametrize(
    "totals",
    [
        {"requests": -1},
        {"refused": -1},
        {"busy_us": -1},
        {"requests": 2**53},
        {"busy_us": 2**63},
        {"requests": 1.5},
        {"requests": "1"},
        {"requests": None},
    ],
)
def test_a_count_out_of_range_is_no_count(totals: dict[str, object]) -> None:
    async def story(world: World) -> None:
        async with Scope() as scope:
            scope.start("market", world.market.run())
            await asyncio.sleep(3 * BEAT_MS / 1000)
            await world.count_demand(**totals)
            await asyncio.sleep(SETTLED_S)
            scope.cancel()
        assert world.market.metrics.value("market_demand_bad_total") == 1
        assert world.market._usage.close() == {}

    in_world(story)


def test_an_offer_under_the_key_of_another_instance_is_taken_by_its_own_name() -> None:
    """The key says nothing that counts: what is signed does."""

    async def story(world: World) -> None:
        await world.market.offer(world.offer(BERT), delegation=None)
        value = world.bus._board["offers.bert-1"]
        await world.bus.put("offers.bert-1", b"")
        await world.bus.put("offers.stolen", value)
        await lived(world)
        assert [one.offer.instance for one in world.market.offers] == ["bert-1"]

    in_world(story)
