"""What the market wants of a miner: started, stopped, explained or left out."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
from tests.makers import MANIFEST, MINER
from tests.stations.miner.world import (
    CHARTER,
    CONFIG,
    OPERATOR,
    World,
    playing,
)

from penstock.spec.keys import sign
from penstock.spec.messages import chute_id
from penstock.spec.units import PPM


def target(instances: int) -> dict[str, Any]:
    return {"tiny-chat": {"instances": instances, "price_ppm": PPM}}


def served_by(*miners: str) -> list[dict[str, Any]]:
    instance = {"instance": "x", "chute": chute_id(MANIFEST)}
    return [{"miner": miner, "instances": [instance]} for miner in miners]


def test_what_the_market_lacks_is_started_and_what_is_too_much_goes() -> None:
    others = tuple(f"toy:{number:016x}" for number in range(8))

    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, chutes=(), auto=True)
        world.market.miners = [MINER.identity, *others]

    async def scenario(world: World) -> None:
        await asyncio.sleep(60)
        assert world.market.offers == []
        world.market.targets = target(1)
        await world.ready()
        world.market.listed = served_by(MINER.identity)
        await asyncio.sleep(30)
        assert not world.market.withdrawn
        world.market.targets = target(0)
        await world.until(lambda: world.market.withdrawn)
        await world.until(lambda: not world.miner.parts.fleet.instances)

    playing(scenario, prepare=prepare)


def test_a_wanted_chute_that_cannot_run_here_is_explained() -> None:
    def prepare(world: World) -> None:
        world.config = msgspec.structs.replace(CONFIG, chutes=("tiny-chat", "big", "none"))
        world.market.manifests = [MANIFEST, replace(MANIFEST, name="big", hardware="nvidia-h200")]

    async def scenario(world: World) -> None:
        await world.ready()
        problems = " ".join((await world.health())["problems"])
        assert "big: it needs" in problems
        assert "none: the market does not list it" in problems

    playing(scenario, prepare=prepare)


def test_other_protocol_numbers_are_not_served() -> None:
    def prepare(world: World) -> None:
        other = replace(CHARTER, params_digest="0" * 64)
        world.market.charter = sign("charter", other, OPERATOR)

    async def scenario(world: World) -> None:
        await world.until(lambda: world.miner.parts.deployment.why)
        assert "other_law" in world.miner.parts.deployment.why
        await asyncio.sleep(10)
        assert world.market.offers == []

    playing(scenario, prepare=prepare)


def test_a_listed_manifest_that_does_not_hold_is_left_out() -> None:
    async def scenario(world: World) -> None:
        await asyncio.sleep(10)
        assert world.market.offers == []
        world.market.manifests = [MANIFEST]
        await world.ready()

    def prepare(world: World) -> None:
        bad = replace(MANIFEST, limits=replace(MANIFEST.limits, parallel_max=0))
        world.market.manifests = [bad]

    playing(scenario, prepare=prepare)
