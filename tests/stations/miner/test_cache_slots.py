"""Whose prompt is in which slot: no payer ever counts on what another left."""

import asyncio
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties import in_full

from penstock.miner.cache_slots import CacheSlots, Seat


def serve(slots: CacheSlots, payer: str, *, choices: int = 1) -> Seat:
    """One request from its start to its end."""
    seat = slots.take(payer, choices=choices)
    slots.begun(seat)
    slots.give(seat, is_written=True)
    return seat


def test_a_payer_comes_back_to_their_own_slot_and_uses_it() -> None:
    slots = CacheSlots(3)
    first = serve(slots, "a")
    other = serve(slots, "b")
    again = serve(slots, "a")
    assert (first.may_reuse, other.may_reuse, again.may_reuse) == (False, False, True)
    assert again.slot == first.slot != other.slot


def test_a_slot_that_changes_its_owner_is_not_used_again() -> None:
    slots = CacheSlots(1)
    serve(slots, "a")
    assert not serve(slots, "b").may_reuse
    assert not serve(slots, "a").may_reuse
    assert serve(slots, "a").may_reuse


def test_the_slot_that_rested_longest_goes_first() -> None:
    slots = CacheSlots(2)
    first, second = serve(slots, "a"), serve(slots, "b")
    serve(slots, "a")
    assert serve(slots, "c").slot == second.slot
    assert serve(slots, "a").slot == first.slot


def test_requests_at_once_never_share_a_slot() -> None:
    slots = CacheSlots(4)
    serve(slots, "a")
    seats = [slots.take("a") for _ in range(4)]
    assert sorted(seat.slot for seat in seats) == [0, 1, 2, 3]
    assert sum(seat.may_reuse for seat in seats) == 1


def test_what_was_never_worked_on_leaves_nothing_to_count_on() -> None:
    """The engine refused it: somebody else's prompt may still be there."""
    slots = CacheSlots(1)
    serve(slots, "a")
    refused = slots.take("b")
    slots.give(refused, is_written=False)
    assert not serve(slots, "b").may_reuse


def test_a_client_may_forgo_what_is_cached() -> None:
    slots = CacheSlots(1)
    serve(slots, "a")
    assert not slots.take("a", forgoes=True).may_reuse


def test_several_choices_leave_nothing_to_count_on() -> None:
    slots = CacheSlots(3)
    serve(slots, "a")
    running = slots.take("b")
    slots.begun(running)
    spread = slots.take("c", choices=2)
    during = slots.take("a")
    assert not spread.may_reuse
    assert not during.may_reuse
    for seat in (running, during, spread):
        slots.give(seat, is_written=True)
    assert not any(serve(slots, payer).may_reuse for payer in "abc")
    assert all(serve(slots, payer).may_reuse for payer in "abc")


async def test_several_choices_wait_for_who_counts_on_a_slot() -> None:
    slots = CacheSlots(3)
    serve(slots, "a")
    on_its_way, doubtless = slots.take("a"), slots.take("b")
    spread = slots.take("c", choices=2)
    waiting = asyncio.ensure_future(slots.until_safe(spread))
    await asyncio.sleep(0)
    slots.begun(doubtless)
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.begun(on_its_way)
    await waiting


async def test_who_gives_up_on_the_way_is_not_waited_for() -> None:
    slots = CacheSlots(2)
    serve(slots, "a")
    on_its_way = slots.take("a")
    waiting = asyncio.ensure_future(slots.until_safe(slots.take("c", choices=2)))
    await asyncio.sleep(0)
    slots.give(on_its_way, is_written=False)
    await waiting


async def test_one_choice_waits_for_nobody() -> None:
    slots = CacheSlots(2)
    slots.take("a", choices=2)
    await slots.until_safe(slots.take("b"))


@pytest.mark.parametrize("body", [b'{"prompt":"x"}', b"{}", b"{ }"])
def test_the_place_is_written_into_the_request(body: bytes) -> None:
    seat = Seat(slot=2, payer="a", may_reuse=True, is_spread=False)
    fields = msgspec.json.decode(seat.placed(body))
    assert fields == {**msgspec.json.decode(body), "id_slot": 2, "cache_prompt": True}


def test_more_requests_than_slots_count_on_nothing() -> None:
    slots = CacheSlots(1)
    serve(slots, "a")
    seats = [slots.take("a") for _ in range(3)]
    assert [seat.may_reuse for seat in seats] == [True, False, False]
    for seat in seats:
        slots.give(seat, is_written=True)


class Engine:
    """llama.cpp's slots as they are: one that counts on its slot finds whoever wrote there last."""

    def __init__(self, slots_max: int, chance: random.Random) -> None:
        self.written = [""] * slots_max
        self.busy: dict[int, Seat] = {}
        self.chance = chance

    def free(self) -> list[int]:
        return [slot for slot in range(len(self.written)) if slot not in self.busy]

    def begin(self, seat: Seat, choices: int) -> bool:
        """False while it has to wait for its slot. Further choices go wherever there is room."""
        if seat.slot in self.busy or len(self.free()) < choices:
            return False
        if seat.may_reuse:
            assert self.written[seat.slot] == seat.payer
        others = [slot for slot in self.free() if slot != seat.slot]
        for slot in (seat.slot, *self.chance.sample(others, choices - 1)):
            self.written[slot] = seat.payer
            self.busy[slot] = seat
        return True

    def end(self, seat: Seat) -> None:
        self.busy = {slot: one for slot, one in self.busy.items() if one is not seat}


@settings(max_examples=in_full(300))
@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.sampled_from("sbeer")), max_size=40
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_in_whatever_order_nobody_finds_anothers_prompt(
    slots_max: int, steps: list[tuple[str, int, str]], chance: random.Random
) -> None:
    slots, engine = CacheSlots(slots_max), Engine(slots_max, chance)
    sent: list[tuple[Seat, int]] = []
    begun: list[Seat] = []
    for payer, asked, step in steps:
        choices = min(asked, slots_max)
        if step == "s" and len(sent) + len(begun) < slots_max:
            sent.append((slots.take(payer, choices=choices), choices))
        elif step == "b" and sent:
            seat, wanted = sent[chance.randrange(len(sent))]
            is_safe = all(one.is_begun for one in seat.awaited)
            if is_safe and engine.begin(seat, wanted):
                sent.remove((seat, wanted))
                slots.begun(seat)
                begun.append(seat)
        elif step == "e" and begun:
            seat = begun.pop(chance.randrange(len(begun)))
            engine.end(seat)
            slots.give(seat, is_written=True)
        elif step == "r" and sent:
            seat, _ = sent.pop(chance.randrange(len(sent)))
            slots.give(seat, is_written=False)
