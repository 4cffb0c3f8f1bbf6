"""Reading published files: whatever bytes a stranger serves, the answer is a Difference or the log."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.altered_files import with_segment
from tests.client.memory_log import DictSource
from tests.client.published_log import EPOCHS, LAST, LOG_KEY, ORIGIN, auditor, make_log
from tests.properties import in_full

from penstock.client.errors import ClientError, Difference, NotPublished
from penstock.client.published import (
    read_checkpoint,
    read_operator,
    read_outcome,
    read_segment_file,
)
from penstock.client.segments import SegmentReading, read_whole
from penstock.kit.keys import verify_raw
from penstock.spec.canon import canonical, parse
from penstock.spec.entries import EntryKind

Files = dict[str, bytes]
SEGMENT = f"epochs/{LAST:08d}/segment.parquet"
ABOUT = f"epochs/{LAST:08d}/epoch.json"
OUTCOME = f"epochs/{LAST:08d}/outcome.json"
READ_BY_AN_AUDIT = sorted(
    {"operator.json", OUTCOME}
    | {
        f"epochs/{epoch:08d}/{name}"
        for epoch in EPOCHS
        for name in ("epoch.json", "segment.parquet")
    }
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@functools.cache
def published() -> Files:
    return asyncio.run(make_log()).published


def told(files: Files) -> Difference | NotPublished | None:
    """What an audit says; any other error is the bug that these tests look for."""
    try:
        asyncio.run(auditor(DictSource(files)).audit(LAST))
    except (Difference, NotPublished) as error:
        return error
    return None


def read(make: Callable[[DictSource], Awaitable[Any]], files: Files) -> Any:
    async def run() -> Any:
        return await make(DictSource(files))

    return asyncio.run(run())


def test_an_operator_is_read_whole() -> None:
    operator = read(read_operator, published())
    assert (operator.origin, operator.log_key) == (ORIGIN, LOG_KEY.identity)
    assert operator.network == "local"


def test_the_newest_checkpoint_covers_the_settlement() -> None:
    files = published()
    operator = read(read_operator, files)
    newest = read(lambda source: read_checkpoint(source, operator, verify_raw), files)
    outcome = read(
        lambda source: read_outcome(source, LAST, operator=operator, verify_raw=verify_raw), files
    )
    assert newest == outcome.checkpoint
    assert outcome.leaves[-1].entry.kind is EntryKind.SETTLEMENT
    assert outcome.leaves[-1].seq < newest.size


def test_a_segment_is_read_in_batches_and_joined_by_its_frontiers() -> None:
    files = published()
    operator = read(read_operator, files)
    end = None
    for epoch in EPOCHS:
        file = read(
            functools.partial(
                read_segment_file, epoch=epoch, operator=operator, verify_raw=verify_raw
            ),
            files,
        )
        reading = SegmentReading(file)
        batches = list(reading)
        whole = read_whole(file)
        assert tuple(leaf for batch in batches for leaf in batch) == whole.leaves
        assert (reading.end, reading.previous) == (whole.end, whole.previous)
        assert end is None or whole.start == end
        assert whole.leaves[-1].entry.kind is EntryKind.CLOSE
        end = whole.end


def test_a_file_that_is_not_there_is_named() -> None:
    for name in READ_BY_AN_AUDIT:
        files = {other: data for other, data in published().items() if other != name}
        error = told(files)
        assert error is not None
        folder = name.rpartition("/")[0]
        assert (name if folder == "" else folder) in str(error)


@settings(max_examples=in_full(300))
@given(name=st.sampled_from(READ_BY_AN_AUDIT), data=st.data())
def test_bytes_changed_anywhere_are_a_difference(name: str, data: st.DataObject) -> None:
    files = published()
    changed = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] ^= data.draw(st.integers(1, 255))
    if bytes(changed) != files[name]:
        assert isinstance(told({**files, name: bytes(changed)}), Difference)


@settings(max_examples=in_full(100))
@given(name=st.sampled_from(READ_BY_AN_AUDIT), garbage=st.binary(max_size=200))
def test_any_other_file_in_its_place_is_a_difference(name: str, garbage: bytes) -> None:
    assert isinstance(told({**published(), name: garbage}), Difference)


@settings(max_examples=in_full(100))
@given(name=st.sampled_from(READ_BY_AN_AUDIT), keep=st.floats(0, 0.999))
def test_a_file_cut_short_is_a_difference(name: str, keep: float) -> None:
    data = published()[name]
    assert isinstance(told({**published(), name: data[: int(len(data) * keep)]}), Difference)


@settings(max_examples=in_full(400), suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_hostile_parquet_file_under_its_own_digest_never_crashes(data: st.DataObject) -> None:
    """The digest is made to fit, so that the Parquet reader meets the bytes."""
    files = published()
    changed = bytearray(files[SEGMENT])
    footer = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 3))):
        first = len(changed) - 2_000 if footer else 0
        changed[data.draw(st.integers(first, len(changed) - 1))] = data.draw(st.integers(0, 255))
    error = told(with_segment(files, LAST, bytes(changed)))
    assert error is None or isinstance(error, Difference)


@settings(max_examples=in_full(300))
@given(name=st.sampled_from(["operator.json", ABOUT, OUTCOME]), data=st.data())
def test_any_value_in_any_place_of_the_json_files_is_a_difference(
    name: str, data: st.DataObject
) -> None:
    files = published()
    value = parse(files[name])
    places = list(_places(value))
    holder, key = data.draw(st.sampled_from(places))
    old, new = holder[key], data.draw(json_values)
    holder[key] = new
    if type(old) is not type(new) or old != new:
        assert isinstance(told({**files, name: canonical(value)}), Difference | NotPublished)


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


@pytest.mark.parametrize(
    "text", ["[]", "null", "1", "{}", '{"a":1e999}', "9" * 5_000, "[" * 50_000, "{'a':1}", "\ud800"]
)
def test_json_of_another_shape_is_a_difference(text: str) -> None:
    for name in ("operator.json", ABOUT, OUTCOME):
        files = {**published(), name: text.encode("utf-8", "surrogatepass")}
        assert isinstance(told(files), Difference)


def test_every_error_of_this_package_says_what_happened() -> None:
    for error in (Difference("here", "one", "two"), NotPublished("a.json")):
        assert isinstance(error, ClientError)
        assert str(error)
