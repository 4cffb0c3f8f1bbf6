"""The journal of instances: read back as written, whatever the disk did to it."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST

from penstock.kit.ports import DiskFull
from penstock.miner.budget import Share
from penstock.miner.inventory import LINES_SPARE_MAX, MEASURED_MAX, Inventory
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.errors import IllegalStep
from penstock.spec.life import Event, State
from penstock.spec.messages import chute_id

CHUTE = chute_id(MANIFEST)
SHARE = Share(("GPU-1", "GPU-2"), 5)


def placed(inventory: Inventory) -> str:
    name = inventory.add(CHUTE, MANIFEST, prefix="m", suffix="0a", auto=True).name
    inventory.note(name, Event.PLACE, share=SHARE)
    return name


def test_an_instance_comes_back_as_it_was() -> None:
    store = MemoryOutbox()
    one = Inventory(store)
    name = placed(one)
    one.note(name, Event.START)
    (kept,) = Inventory(store).open()
    assert (kept.name, kept.number, kept.chute, kept.auto) == ("m-1-0a", 1, CHUTE, True)
    assert kept.manifest == MANIFEST
    assert (kept.state, kept.share) == (State.PULLING, SHARE)


def test_who_is_gone_does_not_come_back_and_leaves_its_number() -> None:
    store = MemoryOutbox()
    one = Inventory(store)
    one.note(placed(one), Event.DRAIN)
    later = Inventory(store)
    assert later.open() == ()
    assert placed(later) == "m-2-0a"


def test_a_step_that_cannot_be_is_refused_and_not_written() -> None:
    store = MemoryOutbox()
    one = Inventory(store)
    name = placed(one)
    before = store.load()
    with pytest.raises(IllegalStep):
        one.note(name, Event.PASSED)
    assert store.load() == before
    assert one.kept[name].state is State.PLACED


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"numbers":-1}',
        b'{"name":"m-1-0a","event":"passed"}',
        b'{"name":"stranger","event":"start"}',
        b'{"name":"m-1-0a","event":"invented"}',
        b'{"chute":"c","measured_bytes":-1}',
        b'{"add":{"name":"x","number":1,"chute":"c","manifest":{},"auto":true}}',
        b"[" * 5_000,
    ],
)
def test_a_line_that_says_nothing_is_left_out_and_counted(line: bytes) -> None:
    store = MemoryOutbox()
    name = placed(Inventory(store))
    store.append(line)
    store.append(msgspec.json.encode({"name": name, "event": "start"}))
    later = Inventory(store)
    (kept,) = later.open()
    assert later.unread == 1
    assert kept.state is State.PULLING


def test_a_full_disk_stops_nothing_and_all_is_written_when_there_is_room() -> None:
    store = MemoryOutbox()
    one = Inventory(store)
    name = placed(one)
    store.bytes_max = 0
    one.note(name, Event.START)
    one.note(name, Event.PULLED)
    other = placed(one)
    assert "disk is full" in one.why
    assert one.kept[name].state is State.LOADING
    assert [kept.state for kept in Inventory(store).open()] == [State.PLACED]
    store.bytes_max = 1 << 20
    one.note(name, Event.LOADED)
    assert one.why == ""
    later = Inventory(store)
    assert {kept.name: kept.state for kept in later.open()} == {
        name: State.PROBING,
        other: State.PLACED,
    }
    assert placed(later) == "m-3-0a"


def test_the_journal_is_written_anew_before_it_grows_without_end() -> None:
    store = MemoryOutbox()
    one = Inventory(store)
    one.measure(CHUTE, 77)
    name = placed(one)
    one.note(name, Event.START)
    for _ in range(LINES_SPARE_MAX):
        one.note(name, Event.BROKE)
        one.note(name, Event.RETRY)
        one.note(name, Event.START)
    assert len(store.load()) <= LINES_SPARE_MAX + 3
    later = Inventory(store)
    (kept,) = later.open()
    assert (kept.state, kept.share, later.measured_bytes) == (State.PULLING, SHARE, {CHUTE: 77})
    assert later.numbers == 1


def test_what_was_measured_is_bounded_and_the_oldest_goes() -> None:
    one = Inventory(MemoryOutbox())
    for number in range(MEASURED_MAX + 5):
        one.measure(f"c-{number}", 1)
    one.measure("c-9", 2)
    one.measure("nothing", 0)
    assert len(one.measured_bytes) == MEASURED_MAX
    assert "c-4" not in one.measured_bytes
    assert list(one.measured_bytes)[-1] == "c-9"


class Torn(MemoryOutbox):
    """A disk that is full every now and then."""

    def __init__(self, good: list[bool]) -> None:
        super().__init__()
        self.good = good

    def _check(self, size: int) -> None:
        if self.good and not self.good.pop():
            raise DiskFull("outbox")
        super()._check(size)


@given(
    good=st.lists(st.booleans(), max_size=60),
    choices=st.lists(st.integers(0, 1_000), max_size=60),
)
def test_memory_and_disk_say_the_same_whenever_the_disk_takes_it(
    good: list[bool], choices: list[int]
) -> None:
    store = Torn(good)
    one = Inventory(store)
    events = list(Event)
    for choice in choices:
        names = sorted(one.kept)
        if not names or choice % 7 == 0:
            placed(one)
            continue
        with suppress(IllegalStep):
            one.note(names[choice % len(names)], events[choice % len(events)])
    if not one.why:
        later = Inventory(store)
        later.open()
        assert later.unread == 0
        assert later.kept == one.kept
        assert later.numbers == one.numbers
