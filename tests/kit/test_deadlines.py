"""Deadlines of many on one timer."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.wire.deadlines import Deadlines
from penstock.sim.loop import VirtualLoop, run


class Watched:
    """Notes when it was looked at; while its deadline lies ahead it asks to be looked at again."""

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self.deadline_slot = -1
        self.deadlines = deadlines
        self.at = at
        self.looks = 0
        self.passed_at = 0.0

    def look(self) -> None:
        self.looks += 1
        if self.deadlines.now() < self.at:
            self.deadlines.watch(self, self.at)
        else:
            self.passed_at = self.deadlines.now()


def timers(loop: VirtualLoop) -> int:
    return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


@given(st.lists(st.floats(0.01, 500), min_size=1, max_size=60))
def test_each_is_looked_at_within_a_tenth_of_a_second_of_its_deadline(waits: list[float]) -> None:
    loop = VirtualLoop()

    async def main() -> None:
        deadlines = Deadlines()
        all_watched = [Watched(deadlines, deadlines.now() + wait) for wait in waits]
        for one in all_watched:
            deadlines.watch(one, one.at)
        assert timers(loop) == 1
        await asyncio.sleep(501)
        for one in all_watched:
            assert one.at <= one.passed_at <= one.at + 0.101
            assert (one.looks, one.deadline_slot) == (1, -1)
        assert timers(loop) == 0

    run(main(), loop)


def test_a_deadline_that_moves_later_costs_one_look_and_an_earlier_one_none() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        deadlines = Deadlines()
        began = deadlines.now()
        one = Watched(deadlines, began + 10)
        deadlines.watch(one, one.at)
        for n in range(1_000):
            one.at = began + 20 + n / 1_000
            deadlines.watch(one, one.at)
        await asyncio.sleep(30)
        assert one.looks == 2
        assert one.at <= one.passed_at <= one.at + 0.101
        one.at = deadlines.now() + 75
        deadlines.watch(one, one.at)
        one.at = deadlines.now() + 1
        deadlines.watch(one, one.at)
        await asyncio.sleep(2)
        assert (one.looks, one.deadline_slot) == (3, -1)

    run(main(), loop)


def test_what_is_dropped_is_not_looked_at_and_leaves_no_timer() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        deadlines = Deadlines()
        one, other = Watched(deadlines, 0), Watched(deadlines, 0)
        deadlines.drop(one)
        for watched in (one, other):
            deadlines.watch(watched, deadlines.now() + 5)
        deadlines.drop(one)
        deadlines.drop(one)
        await asyncio.sleep(6)
        assert (one.looks, other.looks) == (0, 1)
        deadlines.watch(one, deadlines.now() + 5)
        deadlines.drop(one)
        assert timers(loop) == 0

    run(main(), loop)


def test_what_is_dropped_while_its_slot_is_due_is_left_alone() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        deadlines = Deadlines()
        at = deadlines.now() + 1
        victims: list[Watched] = []

        class Dropper(Watched):
            def look(self) -> None:
                super().look()
                for victim in victims:
                    deadlines.drop(victim)

        dropper = Dropper(deadlines, at)
        victims.extend(Watched(deadlines, at) for _ in range(3))
        for watched in (dropper, *victims):
            deadlines.watch(watched, at)
        await asyncio.sleep(2)
        assert dropper.looks == 1
        assert [victim.looks for victim in victims] == [0, 0, 0]

    run(main(), loop)


@given(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0.01, 100)), min_size=2, max_size=20))
def test_one_that_is_watched_anew_when_it_is_looked_at_delays_no_other(
    waits: list[tuple[float, float]],
) -> None:
    """As a connection does that closes at its deadline: it has a minute more for its last bytes."""
    loop = VirtualLoop()

    async def main() -> None:
        deadlines = Deadlines()

        class Twice(Watched):
            def __init__(self, wait: float, again: float) -> None:
                super().__init__(deadlines, deadlines.now() + wait)
                self.again = again
                self.passed: list[tuple[float, float]] = []

            def look(self) -> None:
                super().look()
                if self.passed_at >= self.at:
                    self.passed.append((self.at, self.passed_at))
                    if len(self.passed) == 1:
                        self.at = self.passed_at + self.again
                        deadlines.watch(self, self.at)

        everyone = [Twice(wait, again) for wait, again in waits]
        for one in everyone:
            deadlines.watch(one, one.at)
        await asyncio.sleep(121)
        for one in everyone:
            assert len(one.passed) == 2
            for at, passed_at in one.passed:
                assert at <= passed_at <= at + 0.101
        assert timers(loop) == 0

    run(main(), loop)
