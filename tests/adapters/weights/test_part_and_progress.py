"""A part that survives, the pace of a stream, and what is told of it."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.weights.makers import SetClock

from penstock.adapters.weights.errors import Stalled
from penstock.adapters.weights.part import READ_BYTES, Part
from penstock.adapters.weights.patience import Patience, Rest, is_lasting
from penstock.adapters.weights.progress import Meter, Progress, ignore
from penstock.adapters.weights.transfer import Pace, strong


@given(
    before=st.lists(st.binary(max_size=50), max_size=4),
    after=st.lists(st.binary(max_size=50), max_size=4),
)
def test_a_resumed_part_has_the_digest_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, before: list[bytes], after: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("part") / "partial" / "x"
    first = Part(path)
    first.append(before)
    first.close()
    second = Part(path)
    second.rehash(bytes_max=1000)
    assert second.resumed_bytes == len(b"".join(before))
    second.append(after)
    whole = b"".join([*before, *after])
    assert second.digest() == hashlib.sha256(whole).hexdigest()
    second.move(path.parent.parent / "blobs" / "x")
    second.close()
    assert (path.parent.parent / "blobs" / "x").read_bytes() == whole
    assert not path.exists()


def test_more_than_there_may_be_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(READ_BYTES + 5))
    part = Part(tmp_path / "x")
    part.rehash(bytes_max=READ_BYTES)
    assert (part.size_bytes, part.resumed_bytes) == (0, 0)
    assert (tmp_path / "x").stat().st_size == 0
    part.append([b"new"])
    assert part.digest() == hashlib.sha256(b"new").hexdigest()
    assert part.head(2) == b"ne"
    part.discard()
    part.discard()
    part.close()


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"keep")
    (tmp_path / "x").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        Part(tmp_path / "x")
    assert (tmp_path / "precious").read_bytes() == b"keep"


def test_a_part_is_private_until_it_is_whole_and_then_read_only(tmp_path: Path) -> None:
    part = Part(tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    part.move(tmp_path / "y")
    part.close()
    assert (tmp_path / "y").stat().st_mode & 0o777 == 0o444


def test_the_rate_is_of_what_came_lately_and_resumed_bytes_are_not_in_it() -> None:
    clock, told = SetClock(0), list[Progress]()
    meter = Meter(clock, told.append, total_bytes=10_000)
    meter.found(4_000)
    assert (told[-1].rate_bytes_s, told[-1].eta_ms) == (0, None)
    for _ in range(4):
        clock.ms += 500
        meter.came(500)
    assert told[-1].rate_bytes_s == 1_000
    assert (told[-1].done_bytes, told[-1].eta_ms) == (6_000, 4_000)
    clock.ms += 60_000
    meter.came(1)
    assert told[-1].rate_bytes_s < 20


def test_it_is_told_at_most_four_times_a_second_and_at_the_end() -> None:
    clock, told = SetClock(0), list[Progress]()
    meter = Meter(clock, told.append, total_bytes=1_000)
    for _ in range(1_000):
        clock.ms += 1
        meter.came(1)
    assert len(told) <= 5
    meter.tell()
    assert told[-1].done_bytes == 1_000
    ignore(told[-1])


def test_a_meter_looks_back_over_a_bounded_number_of_samples() -> None:
    clock, told = SetClock(0), list[Progress]()
    meter = Meter(clock, told.append, total_bytes=1 << 40)
    for _ in range(500):
        clock.ms += 1_000
        meter.came(7_000)
    assert told[-1].rate_bytes_s == 7_000
    assert len(meter._samples) <= 12


def test_a_pace_is_kept_by_bytes_not_by_signs_of_life() -> None:
    clock = SetClock(0)
    pace = Pace(clock, span_ms=1_000, bytes_min=100)
    clock.ms = 999
    assert pace.is_kept(1)
    clock.ms = 1_000
    assert not pace.is_kept(98)
    clock.ms = 2_000
    assert pace.is_kept(100)


async def test_rests_double_end_and_begin_anew_when_it_got_on() -> None:
    rest = Rest(Patience(tries_max=3, rest_ms=0))
    error = Stalled("s", 0, 1)
    assert [await rest.again(error) for _ in range(3)] == [True, True, False]
    rest.renew()
    assert await rest.again(error)
    assert not is_lasting(error)


def test_only_an_etag_that_names_bytes_is_used() -> None:
    assert strong('"abc"') == '"abc"'
    assert strong('W/"abc"') == strong("abc") == strong("") == strong('"' + "x" * 300) == ""
