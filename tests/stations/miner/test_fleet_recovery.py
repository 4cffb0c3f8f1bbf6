"""A fleet whose agent is killed at any step: the next life goes on from what is on disk."""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties import in_full
from tests.stations.miner.house import Agent, DeadlyDisk, House, agent, chute

from penstock.kit.tasks import Scope
from penstock.miner.caretaker import Caretaker
from penstock.miner.fleet import RESTARTS
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.life import State

A, B = chute("a"), chute("b")


async def eventful(one: Agent) -> None:
    """A life with everything in it: two come up, one is killed, one sleeps and wakes, one leaves."""
    one.fleet.add(one.scope, *A, auto=True)
    one.fleet.add(one.scope, *B, auto=False)
    await one.serving(2)
    one.fleet.launcher.engines.__self__.kill("m-2-0a")  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    await one.serving(2)
    one.fleet.set_aside("m-1-0a")
    await one.until(lambda: State.SUSPENDED in one.states().values())
    one.fleet.add(one.scope, *A, auto=True)
    await one.serving(2)
    one.fleet.drain("m-2-0a")
    await one.until(lambda: "m-2-0a" not in one.fleet.instances)


async def next_life(house: House, journal: MemoryOutbox) -> None:
    """It serves what was placed, ends what is nobody's, and holds no more memory than it uses."""
    async with Scope() as scope:
        back = agent(house, journal, scope)
        back.fleet.recover(scope)
        await Caretaker(house, lambda name: back.fleet.find(name) is not None).look()
        await back.until(lambda: all(one.is_open for one in back.fleet.instances.values()))
        assert set(house.tenants) == set(back.fleet.instances)
        assert set(back.fleet.memory.shares) == set(back.fleet.instances)
        again = agent(house, journal, scope).fleet.inventory
        assert {one.name for one in again.open()} == set(back.fleet.instances)
        assert again.unread == 0
        scope.cancel()


def test_killed_after_any_line_of_its_journal_the_next_life_goes_on() -> None:
    """The line is on disk, what it says was not done."""

    async def main(writes: int) -> bool:
        house = House()
        journal = DeadlyDisk(house, writes)
        was_killed = False
        async with Scope() as scope:
            one = agent(house, journal, scope)
            life = scope.start("life", eventful(one))
            killed = scope.start("killed", journal.killed.wait())
            await asyncio.wait({life, killed}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            was_killed = journal.killed.is_set()
            scope.cancel()
        house.is_deaf = False
        kept = MemoryOutbox()
        kept.replace(journal.load())
        await next_life(house, kept)
        return was_killed

    writes = 1
    while True:
        outcome: list[bool] = []

        async def play(writes: int = writes, outcome: list[bool] = outcome) -> None:
            outcome.append(await main(writes))

        run(play(), VirtualLoop(horizon_ms=3_600_000))
        if not outcome[0]:
            break
        writes += 1
    assert writes > 20, "the life has so many steps"


@settings(max_examples=in_full(40))
@given(cut_ppm=st.integers(0, 1_000_000))
def test_any_prefix_of_the_journal_recovers_whatever_runs(cut_ppm: int) -> None:
    """A journal that lost its end, beside engines of the end."""

    async def main() -> None:
        house, journal = House(), MemoryOutbox()
        async with Scope() as scope:
            await eventful(agent(house, journal, scope))
            scope.cancel()
        lines = journal.load()
        journal.replace(lines[: len(lines) * cut_ppm // 1_000_000])
        await next_life(house, journal)

    run(main(), VirtualLoop(horizon_ms=3_600_000))


def lived(play: Callable[[Agent], Awaitable[None]], house: House) -> None:
    async def main() -> None:
        async with Scope() as scope:
            await play(agent(house, MemoryOutbox(), scope))
            scope.cancel()

    run(main(), VirtualLoop(horizon_ms=3_600_000))


def test_who_does_not_wake_up_is_started_anew() -> None:
    house = House()

    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=True)
        await one.serving()
        one.fleet.set_aside("m-1-0a")
        await one.until(lambda: not one.fleet.memory.shares)
        assert one.fleet.has_room(*A)
        house.fails = "it does not wake"
        one.fleet.add(one.scope, *A, auto=True)
        instance = one.fleet.instances["m-1-0a"]
        await one.until(lambda: instance.failures)
        assert "does not wake" in instance.why
        house.fails = ""
        await one.serving()

    lived(play, house)
    assert house.loads == ["m-1-0a", "m-1-0a"]


def test_who_served_for_long_waits_no_longer_for_having_failed_before() -> None:
    house = House(fails="not yet")

    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=True)
        instance = one.fleet.instances["m-1-0a"]
        await one.until(lambda: instance.failures == 4)
        house.fails = ""
        await one.serving()
        house.kill("m-1-0a")
        await one.until(lambda: instance.failures == 5)
        await one.serving()
        await asyncio.sleep(RESTARTS.steady_ms / 1000)
        house.kill("m-1-0a")
        await one.until(lambda: instance.failures == 1)

    lived(play, house)


def test_who_is_let_go_before_it_begins_or_between_two_tries_is_gone() -> None:
    house = House()

    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=True)
        one.fleet.drain("m-1-0a")
        await one.until(lambda: not one.fleet.instances)
        assert house.loads == []
        house.fails = "not yet"
        one.fleet.add(one.scope, *A, auto=True)
        await one.until(lambda: one.fleet.instances["m-2-0a"].failures == 6)
        one.fleet.drain("m-2-0a")
        await one.until(lambda: not one.fleet.instances, within_ms=100)
        assert one.fleet.memory.shares == {}

    lived(play, house)
