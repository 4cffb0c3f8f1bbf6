"""Miners behind NAT in a whole market: they serve, their routers forget, and every rule holds."""

from dataclasses import replace

from tests.sim.playing import SHORT_MS

from penstock.sim.cast import Cast, Fault, FaultPart, Trait, draw_cast
from penstock.sim.loop import VirtualLoop
from penstock.sim.world import World, play

HOUR_MS = 3_600_000
SEED = 3


def all_hidden(seed: int, faults: tuple[FaultPart, ...] = ()) -> Cast:
    """This seed's cast with every miner behind NAT that can be, and other faults."""
    cast = draw_cast(seed, length_ms=SHORT_MS)
    miners = tuple(replace(one, is_hidden=one.trait is not Trait.REPLAYS) for one in cast.miners)
    return replace(cast, miners=miners, faults=faults)


def played(cast: Cast, *, length_ms: int = SHORT_MS) -> World:
    world = World(SEED, length_ms=length_ms, loop=VirtualLoop(), cast=cast)
    play(world)
    return world


def test_a_market_whose_miners_are_all_behind_nat_serves() -> None:
    result = played(all_hidden(SEED)).result()
    assert result.broken == ()
    assert result.outcomes["complete"] > 50


def test_routers_that_forget_cost_answers_and_no_rule() -> None:
    faults = tuple(
        FaultPart(fault=Fault.NAT_FORGETS, at_ms=8_000 + 3_500 * number, lasts_ms=0, aim=number)
        for number in range(8)
    )
    result = played(all_hidden(SEED, faults), length_ms=2 * SHORT_MS).result()
    assert result.broken == ()
    assert result.faults == 8
    assert result.outcomes["complete"] > 50


def test_gateways_that_die_are_dialled_again_by_all() -> None:
    faults = tuple(
        FaultPart(
            fault=Fault.GATEWAY_DIES, at_ms=9_000 + 9_000 * number, lasts_ms=2_000, aim=number
        )
        for number in range(3)
    )
    result = played(all_hidden(SEED, faults), length_ms=2 * SHORT_MS).result()
    assert result.broken == ()
    assert result.outcomes["complete"] > 50


def test_some_are_drawn_behind_nat_and_their_routers_forget() -> None:
    casts = [draw_cast(seed, length_ms=HOUR_MS // 4) for seed in range(10)]
    miners = [one for cast in casts for one in cast.miners]
    assert 0 < sum(one.is_hidden for one in miners) < len(miners)
    assert not any(one.is_hidden and one.trait is Trait.REPLAYS for one in miners)
    for cast in casts:
        flaps = [one for one in cast.faults if one.fault is Fault.NAT_FORGETS]
        assert {cast.miners[one.aim].is_hidden for one in flaps} <= {True}
        assert bool(flaps) is any(one.is_hidden for one in cast.miners)
