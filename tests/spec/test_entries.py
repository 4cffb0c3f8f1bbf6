"""Leaves of the log and the flat rows that scoring reads."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import make_order, make_record, toy_verify

from penstock.spec.canon import canonical, to_plain
from penstock.spec.entries import (
    BUCKET_MAX,
    Entry,
    EntryKind,
    leaf_bytes,
    parse_leaf,
    row_of,
    size_bucket,
    work_units,
)
from penstock.spec.errors import BadMessage, NotCanonical
from penstock.spec.params import LOCAL
from penstock.spec.receipts import judge
from penstock.spec.stream import completion_units_max
from penstock.spec.units import FREE, Units


def test_a_leaf_round_trips() -> None:
    entry = Entry(EntryKind.RECORD, "o-1", to_plain(make_record()))
    assert parse_leaf(leaf_bytes(entry)) == entry


@pytest.mark.parametrize(
    "value",
    [
        1,
        {"body": {}, "id": "x"},
        {"body": {}, "id": "x", "kind": "gift"},
        {"body": [], "id": "x", "kind": "record"},
        {"body": {}, "id": 1, "kind": "record"},
    ],
)
def test_other_values_are_no_leaf(value: object) -> None:
    with pytest.raises(BadMessage):
        parse_leaf(canonical(value))


def test_a_leaf_has_one_spelling() -> None:
    with pytest.raises(NotCanonical):
        parse_leaf(b'{"id":"x", "body":{},"kind":"record"}')


def test_a_complete_record_is_work_and_is_timed() -> None:
    row = row_of(judge(make_record(), refusal_free_ms=100, verify=toy_verify), LOCAL)
    assert (row.prompt, row.completion, row.work_units) == (20, 10, 20 + 8 * 10)
    assert row.bucket == (100).bit_length()
    assert row.ns_per_unit == 100_000 * 1000 // 100
    assert (row.counts, row.success) == (1, 1)


def test_an_answer_that_failed_is_no_work_and_is_not_timed() -> None:
    record = replace(make_record(), countersign=None)
    row = row_of(judge(record, refusal_free_ms=100, verify=toy_verify), LOCAL)
    assert (row.work_units, row.ns_per_unit, row.success, row.counts) == (0, 0, 0, 0)
    assert row.earned_nano > 0


def test_an_answer_that_cost_nobody_anything_is_no_work_and_is_not_timed() -> None:
    """Else whoever calls its own miner at a price of zero makes up work without end."""
    order = make_order(price=FREE, charge_max=0)
    row = row_of(judge(make_record(order), refusal_free_ms=100, verify=toy_verify), LOCAL)
    assert (row.completion, row.work_units, row.bucket, row.ns_per_unit) == (10, 0, 0, 0)
    assert (row.counts, row.success) == (1, 1)


def test_cached_prompt_units_are_cheaper_work() -> None:
    assert work_units(Units(10, 4, 1, 0, 0), LOCAL) == 6 * LOCAL.work_prompt + 8


@given(st.integers(0, 10**12))
def test_buckets_grow_with_size_and_are_bounded(work: int) -> None:
    assert 0 <= size_bucket(work) <= size_bucket(work + 1) <= BUCKET_MAX


def test_an_answer_holds_at_most_a_unit_per_byte_or_event() -> None:
    assert completion_units_max(events=3, content_bytes=12) == 12
    assert completion_units_max(events=3, content_bytes=0) == 3
