"""A fleet leads its instances by the law: it adopts, restarts, swaps and lets go, whoever is killed."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from tests.stations.miner.house import CARD, GIB, Agent, House, agent, chute

from penstock.kit.engine import Capability, Engine, EngineStats
from penstock.kit.tasks import Scope
from penstock.miner.budget import PROCESSOR, Slot
from penstock.miner.caretaker import Caretaker
from penstock.miner.instance import Launch, Wish
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.life import State

A, B, C = chute("a"), chute("b"), chute("c")
BIG = Slot("GPU-2", "nvidia-l4", "card-2", 24 * GIB, CARD.classes)
Play = Callable[[Agent], Awaitable[None]]


def played(*lives: Play, house: House | None = None, slots: tuple[Slot, ...] = (CARD,)) -> House:
    """Lives of one agent, each killed at its end: its tasks vanish, its engines stay."""
    loop = VirtualLoop(horizon_ms=3_600_000)
    found = house or House()
    journal = MemoryOutbox()

    async def main() -> None:
        for play in lives:
            async with Scope() as scope:
                one = agent(found, journal, scope, slots=slots)
                one.fleet.recover(scope)
                await play(one)
                scope.cancel()

    run(main(), loop)
    return found


async def serve_a(one: Agent) -> None:
    one.fleet.add(one.scope, *A, auto=False)
    await one.serving()


def test_after_kill_9_of_the_agent_its_engine_is_adopted_under_its_name_without_a_load() -> None:
    async def come_back(one: Agent) -> None:
        (instance,) = await one.serving()
        assert (instance.name, instance.chute) == ("m-1-0a", A[0])
        assert instance.share.slots == ("GPU-1",)
        assert one.fleet.changed.is_set()

    house = played(serve_a, come_back, come_back)
    assert house.loads == ["m-1-0a"]
    assert house.adopted == ["m-1-0a", "m-1-0a"]


def test_names_are_never_used_twice_not_even_over_a_crash() -> None:
    async def more(one: Agent) -> None:
        await one.serving()
        one.fleet.drain("m-1-0a")
        await one.until(lambda: not one.fleet.instances)
        added = one.fleet.add(one.scope, *B, auto=False)
        assert added is not None
        assert added.name == "m-2-0a"
        await one.serving()

    assert sorted(played(serve_a, more).tenants) == ["m-2-0a"]


def test_a_killed_engine_is_withdrawn_within_a_second_and_comes_back_by_itself() -> None:
    async def play(one: Agent) -> None:
        await serve_a(one)
        for count in (1, 2):
            house.kill("m-1-0a")
            await one.until(lambda: len(one.withdrawn) == count, within_ms=1_000)  # noqa: B023
            assert one.fleet.instances["m-1-0a"].room == 0
            await one.serving()

    house = House()
    played(play, house=house)
    assert house.loads == ["m-1-0a"] * 3


def test_an_engine_that_died_while_the_agent_was_away_is_started_again() -> None:
    async def come_back(one: Agent) -> None:
        await one.serving()

    house = House()

    async def kill(one: Agent) -> None:
        await serve_a(one)
        house.kill("m-1-0a")

    played(kill, come_back, house=house)
    assert house.loads == ["m-1-0a", "m-1-0a"]
    assert house.adopted == []


def test_the_waits_between_tries_grow_and_the_reason_is_shown() -> None:
    house = House(fails="no kernel image for this card")
    tries: list[float] = []

    async def play(one: Agent) -> None:
        loop = asyncio.get_running_loop()
        one.fleet.add(one.scope, *A, auto=False)
        instance = one.fleet.instances["m-1-0a"]
        for failures in range(1, 6):
            await one.until(lambda: instance.failures == failures)  # noqa: B023
            tries.append(loop.time())
        assert "no kernel image" in instance.why
        house.fails = ""
        await one.serving()
        assert instance.why == ""

    played(play, house=house)
    waits = [round(later - one, 1) for one, later in pairwise(tries)]
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_bug_in_an_adapter_is_one_failure_and_not_the_end() -> None:
    house = House()

    async def play(one: Agent) -> None:
        def broken(_launch: Launch) -> Engine:
            one.fleet.launcher.engines = house.engine
            raise ZeroDivisionError

        one.fleet.launcher.engines = broken
        one.fleet.add(one.scope, *A, auto=False)
        await one.serving()

    assert played(play, house=house).loads == ["m-1-0a"]


def test_an_engine_that_does_not_do_what_its_chute_is_for_is_never_offered() -> None:
    house = House(capabilities=frozenset({Capability.EMBEDDINGS}))

    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=False)
        instance = one.fleet.instances["m-1-0a"]
        await one.until(lambda: instance.failures)
        assert "no test request for chat" in instance.why
        assert not house.tenants
        assert not one.fleet.changed.is_set()

    played(play, house=house)


def test_two_chutes_share_the_card_and_a_third_finds_no_room() -> None:
    async def play(one: Agent) -> None:
        for wanted in (A, B):
            assert one.fleet.add(one.scope, *wanted, auto=True) is not None
        await one.serving(2)
        one.fleet.launcher.weights.gib = 15  # type: ignore[attr-defined]
        assert not one.fleet.has_room(*C)
        assert one.fleet.add(one.scope, *C, auto=True) is None

    played(play)


def swapping(one: Agent) -> None:
    """Models so large that the card holds one."""
    one.fleet.launcher.weights.gib = 15  # type: ignore[attr-defined]


def test_what_is_asked_for_by_name_takes_the_place_of_what_is_not_and_that_sleeps() -> None:
    async def play(one: Agent) -> None:
        swapping(one)
        first = one.fleet.add(one.scope, *A, auto=True)
        assert first is not None
        await one.serving()
        first.take()
        assert one.fleet.make_room(*B)
        await asyncio.sleep(1)
        assert first.room == 0
        assert one.withdrawn == [first.name]
        assert not house.tenants[first.name].is_asleep, "a stream still runs"
        first.give()
        await one.until(lambda: one.fleet.has_room(*B))
        assert house.tenants[first.name].is_asleep
        second = one.fleet.add(one.scope, *B, auto=False)
        assert second is not None
        assert await one.serving() == [second]
        one.fleet.drain(second.name)
        await one.until(lambda: second.name not in one.fleet.instances)
        assert one.fleet.add(one.scope, *A, auto=True) is first
        assert await one.serving() == [first]

    house = House()
    played(play, house=house)
    assert house.loads == ["m-1-0a", "m-2-0a"], "what slept was woken, not loaded"


def test_what_only_fails_is_in_nobodys_way() -> None:
    house = House(fails="no such file")

    async def play(one: Agent) -> None:
        swapping(one)
        one.fleet.add(one.scope, *A, auto=True)
        await one.until(lambda: one.states() == {"m-1-0a": State.FAILED})
        house.fails = ""
        assert one.fleet.make_room(*B)
        await one.until(lambda: one.fleet.add(one.scope, *B, auto=False))
        (serving,) = await one.serving()
        assert serving.chute == B[0]

    played(play, house=house)


def test_an_instance_that_falls_asleep_is_not_woken_before_it_sleeps() -> None:
    async def play(one: Agent) -> None:
        await serve_a(one)
        instance = one.fleet.instances["m-1-0a"]
        instance.take()
        one.fleet.set_aside(instance.name)
        await one.until(lambda: instance.state is State.SUSPENDED)
        other = one.fleet.add(one.scope, *A, auto=True)
        assert other is not instance, "its last request still runs"
        instance.give()
        await one.until(lambda: instance.name not in one.fleet.memory.shares)
        assert one.fleet.add(one.scope, *A, auto=True) is instance
        await one.serving(2)

    played(play)


def test_an_engine_that_cannot_sleep_leaves() -> None:
    house = House(capabilities=frozenset({Capability.CHAT}))

    async def play(one: Agent) -> None:
        swapping(one)
        one.fleet.add(one.scope, *A, auto=True)
        await one.serving()
        assert one.fleet.make_room(*B)
        assert one.fleet.make_room(*B), "asking again moves nothing else"
        await one.until(lambda: not one.fleet.instances)
        assert one.fleet.launcher.weights.dropped == ["m-1-0a"]  # type: ignore[attr-defined]

    assert played(play, house=house).tenants == {}


def test_an_engine_that_fails_to_sleep_is_stopped() -> None:
    house = House(insomnia=True)

    async def play(one: Agent) -> None:
        await serve_a(one)
        one.fleet.set_aside("m-1-0a")
        await one.until(lambda: not one.fleet.instances)
        assert one.fleet.memory.shares == {}

    assert played(play, house=house).tenants == {}


def test_a_sleeper_that_is_killed_or_dismissed_is_gone() -> None:
    house = House()

    async def play(one: Agent) -> None:
        for wanted in (A, B):
            one.fleet.add(one.scope, *wanted, auto=True)
        await one.serving(2)
        for name in list(one.fleet.instances):
            one.fleet.set_aside(name)
        await one.until(lambda: set(one.states().values()) == {State.SUSPENDED})
        assert one.fleet.memory.shares == {}
        house.kill("m-1-0a")
        one.fleet.drain("m-2-0a")
        await one.until(lambda: not one.fleet.instances)

    assert played(play, house=house).tenants == {}


def test_nothing_is_displaced_in_vain() -> None:
    async def play(one: Agent) -> None:
        await serve_a(one)
        assert not one.fleet.make_room(*chute("b", hardware="nvidia-b200"))
        swapping(one)
        assert not one.fleet.make_room(*B), "what was asked for by name stays"
        assert one.fleet.instances["m-1-0a"].wish is Wish.SERVE

    played(play)


def test_a_drain_waits_for_streams_and_cuts_those_that_never_end() -> None:
    async def play(one: Agent) -> None:
        await serve_a(one)
        instance = one.fleet.instances["m-1-0a"]
        instance.take()
        one.fleet.drain(instance.name)
        await asyncio.sleep(4)
        assert one.states() == {"m-1-0a": State.DRAINING}
        assert house.tenants
        await asyncio.sleep(2)
        assert one.fleet.instances == {}
        assert not house.tenants

    house = House()
    played(play, house=house)


def test_an_instance_may_be_let_go_while_it_loads() -> None:
    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=False)
        await asyncio.sleep(0.1)
        assert one.states() == {"m-1-0a": State.LOADING}
        one.fleet.drain("m-1-0a")
        await one.until(lambda: not one.fleet.instances, within_ms=500)

    assert played(play).tenants == {}


def test_memory_is_measured_where_a_card_tells_and_remembered_over_lives() -> None:
    async def look(one: Agent) -> None:
        await one.serving()
        assert one.fleet.footprint(*A).measured_bytes == 5 * GIB

    async def measure(one: Agent) -> None:
        await serve_a(one)
        await look(one)

    # What is adopted was there before: it is not measured again as nothing.
    played(measure, look, house=House(used_bytes={"GPU-1": GIB}))


def test_two_that_come_up_together_are_not_measured() -> None:
    async def play(one: Agent) -> None:
        one.fleet.add(one.scope, *A, auto=False)
        one.fleet.add(one.scope, *B, auto=False)
        await one.serving(2)
        assert A[0] not in one.fleet.inventory.measured_bytes

    played(play, house=House(used_bytes={"GPU-1": GIB}))


def test_an_instance_whose_card_is_gone_is_dropped_and_its_engine_ended() -> None:
    async def come_back(one: Agent) -> None:
        assert one.fleet.instances == {}
        await Caretaker(house, lambda name: name in one.fleet.instances).look()

    house = House()
    loop = VirtualLoop()
    journal = MemoryOutbox()

    async def main() -> None:
        for slots, play in (((CARD,), serve_a), ((BIG,), come_back)):
            async with Scope() as scope:
                one = agent(house, journal, scope, slots=slots)
                one.fleet.recover(scope)
                await play(one)
                scope.cancel()

    run(main(), loop)
    assert house.tenants == {}
    assert house.beats == 1


def test_offers_name_the_devices_that_an_instance_really_uses() -> None:
    processor = Slot(PROCESSOR, "cpu", "machine", 8 * GIB, frozenset({"", "any", "cpu"}))

    async def play(one: Agent) -> None:
        on_card = one.fleet.add(one.scope, *A, auto=False)
        assert on_card is not None
        assert (on_card.hardware, on_card.device) == ("nvidia-l4", "card-1")
        assert 0 < on_card.launch.card_ppm < 1_000_000
        one.fleet.launcher.weights.gib = 1  # type: ignore[attr-defined]
        small = one.fleet.add(one.scope, *chute("c", hardware="cpu"), auto=False)
        assert small is not None
        assert (small.hardware, small.device) == ("cpu", "machine")
        assert (small.launch.cards, small.launch.card_ppm) == ((), 0)
        one.fleet.launcher.weights.gib = 30  # type: ignore[attr-defined]
        both = one.fleet.memory
        both.release(on_card.name)
        large = one.fleet.add(one.scope, *B, auto=False)
        assert large is not None
        assert large.device == "card-1+card-2"

    played(play, slots=(processor, CARD, BIG))


@pytest.mark.parametrize(
    ("waiting", "kv_ppm", "room"), [(1, 950_000, 0), (0, 950_000, 4), (1, 0, 3)]
)
def test_an_engine_whose_cache_is_full_has_no_room(waiting: int, kv_ppm: int, room: int) -> None:
    async def play(one: Agent) -> None:
        await serve_a(one)
        instance = one.fleet.instances["m-1-0a"]
        instance.looked(EngineStats(0, waiting, ready=True, kv_used_ppm=kv_ppm))
        assert instance.room == room

    assert A[1].limits.parallel_max == 4
    played(play)
