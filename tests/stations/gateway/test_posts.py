"""Before it serves, a gateway knows the market: what it had not heard of yet, it would deny."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import MANIFEST
from tests.stations.gateway.test_directory import Place
from tests.stations.gateway.world import renamed

from penstock.gateway.posts import (
    ALONE,
    EMPTY_MS,
    KNOWN_DEADLINE_MS,
    WARM_EMPTY_MS,
    Post,
    know_market,
)
from penstock.sim.loop import VirtualLoop, run

FIRST = Post(number=1, fd=3, keeper_port=1)
WARM = replace(FIRST, is_warm=True)
COUNT = 30


def waited_ms(place: Place, post: Post, *, telling: Any = None) -> int:
    """How long it waits while `telling` runs beside it, in virtual time."""
    loop = VirtualLoop()

    async def main() -> int:
        began_s = loop.time()
        beside = asyncio.ensure_future(telling()) if telling is not None else None
        await know_market(place.directory, post)
        took_ms = round((loop.time() - began_s) * 1_000)
        if beside is not None:
            beside.cancel()
        return took_ms

    return run(main(), loop)


@pytest.mark.parametrize("post", [ALONE, FIRST, WARM])
@pytest.mark.parametrize("gap_ms", [1, 40])
def test_it_waits_until_all_that_the_board_has_was_told(post: Post, gap_ms: int) -> None:
    place = Place()

    async def telling() -> None:
        await asyncio.sleep(0.2)  # the way to the board and back
        for number in range(COUNT):
            place.manifest(renamed(f"chute-{number}"))
            await asyncio.sleep(gap_ms / 1_000)
        for number in range(COUNT):
            place.offer(f"miner-{number}", instance=f"miner-{number}")
            await asyncio.sleep(gap_ms / 1_000)

    assert waited_ms(place, post, telling=telling) < KNOWN_DEADLINE_MS
    assert (len(place.directory.names()), place.directory.instances_count) == (COUNT, COUNT)


@pytest.mark.parametrize(
    ("post", "patience_ms"), [(ALONE, EMPTY_MS), (FIRST, EMPTY_MS), (WARM, WARM_EMPTY_MS)]
)
def test_an_empty_market_is_waited_for_in_vain_and_not_for_long(
    post: Post, patience_ms: int
) -> None:
    assert patience_ms <= waited_ms(Place(), post) <= patience_ms + 200


@pytest.mark.parametrize("post", [ALONE, WARM])
def test_a_market_that_nobody_serves_is_waited_for_no_longer(post: Post) -> None:
    place = Place()
    place.manifest(MANIFEST)
    assert waited_ms(place, post) <= WARM_EMPTY_MS


def test_a_market_that_is_known_is_served_at_once() -> None:
    place = Place()
    place.manifest(MANIFEST)
    place.offer()
    assert waited_ms(place, WARM) <= 200


def test_a_board_that_never_rests_is_not_waited_for_for_ever() -> None:
    place = Place()

    async def telling() -> None:
        number = 0
        while True:
            number += 1
            place.offer(f"miner-{number}", instance=f"miner-{number}")
            await asyncio.sleep(0.05)

    assert waited_ms(place, ALONE, telling=telling) <= KNOWN_DEADLINE_MS
