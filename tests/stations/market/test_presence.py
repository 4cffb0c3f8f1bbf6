"""Presence: every missed beat costs, jitter does not, leaving does not, vanishing does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.market_makers import ANNA, BERT, offer_of

from penstock.market.errors import MarketFull
from penstock.market.presence import PresenceBook
from penstock.spec.messages import Presence

BEAT = 1_000


def book(miner_presences_max: int = 10) -> PresenceBook:
    return PresenceBook(0, beat_ms=BEAT, miner_presences_max=miner_presences_max)


def beats(found: PresenceBook, *times_ms: int) -> None:
    for now_ms in times_ms:
        found.beat(offer_of(), hardware="cpu", now_ms=now_ms)


def close(found: PresenceBook, end_ms: int, *, live: bool = True) -> tuple[Presence, ...]:
    return found.close(end_ms, is_live=lambda _: live)[0]


def seen_and_due(presences: tuple[Presence, ...]) -> list[tuple[int, int]]:
    return [(one.beats_seen, one.beats_due) for one in presences]


def test_an_instance_that_beats_is_present_for_every_beat() -> None:
    found = book()
    beats(found, *range(0, 10_000, BEAT))
    assert seen_and_due(close(found, 10_000)) == [(10, 10)]


def test_an_instance_is_due_from_its_first_beat_on() -> None:
    found = book()
    beats(found, *range(4_000, 10_000, BEAT))
    assert seen_and_due(close(found, 10_000)) == [(6, 6)]


@given(st.lists(st.integers(-400, 400), min_size=9, max_size=9))
def test_jitter_costs_nothing(jitter: list[int]) -> None:
    found = book()
    beats(found, 0, *(n * BEAT + late for n, late in enumerate(jitter, 1)))
    ((seen, due),) = seen_and_due(close(found, 10_000))
    assert due == 10
    assert seen >= 9


def test_missed_beats_cost_and_many_offers_do_not_buy_them_back() -> None:
    found = book()
    beats(found, 0, 5_000, *range(5_010, 5_900, 10), 6_000, 7_000, 8_000, 9_000)
    ((seen, due),) = seen_and_due(close(found, 10_000))
    assert (seen, due) == (6, 10)


def test_vanishing_costs_presence_until_the_end() -> None:
    found = book()
    beats(found, 0, 1_000)
    assert seen_and_due(close(found, 10_000, live=False)) == [(2, 10)]


def test_leaving_costs_nothing_and_coming_back_goes_on() -> None:
    found = book()
    beats(found, 0, 1_000)
    found.leave("anna-1", now_ms=2_000)
    found.leave("anna-1", now_ms=2_500)
    beats(found, 8_000, 9_000)
    assert seen_and_due(close(found, 10_000)) == [(4, 4)]


def test_a_live_instance_goes_on_into_the_next_epoch_and_a_dead_one_does_not() -> None:
    found = book()
    beats(found, *range(200, 10_000, BEAT))
    found.beat(offer_of(BERT), hardware="cpu", now_ms=200)
    first, after = found.close(10_000, is_live=lambda instance: instance == "anna-1")
    assert seen_and_due(first) == [(9, 9), (1, 9)]
    beats(after, *range(10_200, 20_000, BEAT))
    assert seen_and_due(close(after, 20_000)) == [(10, 10)]


def test_an_instance_that_vanished_at_the_border_is_due_in_the_next_epoch() -> None:
    found = book()
    beats(found, *range(0, 10_000, BEAT))
    _, after = found.close(10_000, is_live=lambda _: True)
    assert seen_and_due(close(after, 20_000, live=False)) == [(0, 10)]
    _, later = after.close(20_000, is_live=lambda _: False)
    assert len(later) == 0


def test_another_device_or_hardware_is_another_presence() -> None:
    found = book()
    found.beat(offer_of(), hardware="cpu", now_ms=0)
    found.beat(offer_of(device="new"), hardware="cpu", now_ms=4_000)
    presences = close(found, 10_000)
    assert sorted((one.device, one.beats_due) for one in presences) == [
        ("device-of-anna", 4),
        ("new", 6),
    ]


def test_a_miner_has_so_many_presences_and_no_more() -> None:
    found = book(miner_presences_max=1)
    found.check_room(offer_of(), hardware="cpu")
    beats(found, 0)
    found.check_room(offer_of(), hardware="cpu")
    found.check_room(offer_of(BERT), hardware="cpu")
    with pytest.raises(MarketFull):
        found.check_room(offer_of(ANNA, device="new"), hardware="cpu")


def test_who_had_room_in_one_beat_had_room() -> None:
    found = book()
    found.beat(offer_of(room=0), hardware="cpu", now_ms=0)
    assert found.roomy == frozenset()
    found.beat(offer_of(room=1), hardware="cpu", now_ms=1_000)
    found.beat(offer_of(room=0), hardware="cpu", now_ms=2_000)
    assert found.roomy == {"anna-1"}


@given(st.lists(st.integers(0, 20_000), max_size=60), st.integers(0, 20_000))
def test_nobody_is_seen_more_than_due(times: list[int], end_ms: int) -> None:
    found = book()
    beats(found, *sorted(one for one in times if one <= end_ms))
    for seen, due in seen_and_due(close(found, end_ms)):
        assert 0 <= seen <= due <= end_ms // BEAT
