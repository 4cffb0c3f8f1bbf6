"""Three gateways in one market, some of them killed: no account goes below zero, nothing stays held."""

from dataclasses import replace

import pytest

from penstock.sim.cast import GATEWAYS_MAX, Cast, Fault, FaultPart, Habit, draw_cast
from penstock.sim.loop import VirtualLoop
from penstock.sim.world import World, play

LENGTH_MS = 60_000
KILLS = tuple(
    FaultPart(fault=Fault.GATEWAY_DIES, at_ms=at_ms, lasts_ms=2_000, aim=aim)
    for aim, at_ms in enumerate(range(8_000, 44_000, 9_000))
)


def crowded(cast: Cast) -> Cast:
    """The same people at three gateways, which die one after another; some are soon out of money."""
    people = tuple(
        replace(one, habit=Habit.POOR, credit_nano=300_000, pause_ms=1_500)
        if one.habit is Habit.CHATTER
        else one
        for one in cast.people
    )
    gateways = tuple(f"gateway-{letter}" for letter in "abc")
    return replace(cast, gateways=gateways, people=people, faults=KILLS)


@pytest.mark.parametrize("seed", [1, 4])
def test_three_gateways_that_die_never_overspend_and_leave_nothing_held(seed: int) -> None:
    cast = crowded(draw_cast(seed, length_ms=LENGTH_MS))
    world = World(seed, length_ms=LENGTH_MS, loop=VirtualLoop(), cast=cast)
    play(world)
    result = world.result()
    assert result.broken == ()
    assert result.faults == len(KILLS)
    assert result.outcomes["complete"] > 50
    books = world.ground.ledger_store.books
    spent = {
        one.account: one.credit_nano - books.balance(f"payer/{one.account}").posted_nano
        for one in cast.payers
    }
    assert all(0 <= spent[one.account] <= one.credit_nano for one in cast.payers)
    assert not any(hold.is_open or hold.left_nano for hold in books.holds.values())
    used = {sent.life.host for sent in world.ground.witness.sent.values()}
    assert used == set(cast.gateways), "all three served somebody"


def test_worlds_have_one_to_three_gateways() -> None:
    counts = {len(draw_cast(seed, length_ms=1_000).gateways) for seed in range(20)}
    assert counts == set(range(1, GATEWAYS_MAX + 1))
