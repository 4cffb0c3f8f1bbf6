"""The fast twin equals the law on any rows, in any order, cut into any epochs."""

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.published_log import CHUTES, MINERS, presence
from tests.properties import in_full

from penstock.client.errors import Difference
from penstock.spec.entries import BUCKET_MAX, Row
from penstock.spec.evidence import evidence_digest, gather
from penstock.spec.medians import lower_median
from penstock.spec.messages import Claimed, Roll
from penstock.spec.params import LOCAL
from penstock.spec.scoring import score
from penstock.validator.evidence import Columns, gather_tables

ROW = Row(
    order_id="o",
    chute=CHUTES[0],
    instance="i",
    miner=MINERS[0].identity,
    outcome="complete",
    prompt=1,
    cached=0,
    completion=1,
    charge_nano=1,
    earned_nano=1,
    work_units=9,
    bucket=4,
    ns_per_unit=100,
    ttft_us=1,
    total_us=2,
    counts=1,
    success=1,
)

names = st.sampled_from(["a", "b", "B", "", "\0", "é", "\ue000", "\U0001f600", "a" * 80])
rows_ = st.builds(
    lambda **changes: replace(ROW, **changes),
    miner=names,
    chute=names,
    bucket=st.integers(0, 2) | st.integers(0, BUCKET_MAX),
    work_units=st.integers(0, 3) | st.integers(0, 2**62),
    ns_per_unit=st.integers(0, 3) | st.integers(0, 2**63 - 1),
    counts=st.integers(0, 1),
    success=st.integers(0, 1),
)


def table_of(rows: list[Row]) -> object:
    columns = Columns()
    for row in rows:
        columns.add(row, "here")
    return columns.table()


@settings(max_examples=in_full(300))
@given(rows=st.lists(rows_, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_the_twin_equals_the_law_on_any_rows(rows: list[Row], cuts: list[int]) -> None:
    marks = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [rows[first:last] for first, last in itertools.pairwise(marks)]
    tables = [table_of(part) for part in parts]
    assert gather_tables(tables, [], failed=[]) == gather(rows, [], failed=[])


SLOW = pytest.mark.slow  # one row after the other is made and added, as records come


@pytest.mark.parametrize(
    "count",
    [
        *(1, 2, 3, 4, 5, 10, 11, 1_000, 1_001),
        pytest.param(65_536, marks=SLOW),
        pytest.param(65_537, marks=SLOW),
    ],
)
def test_the_median_is_the_lower_one_for_any_number_of_rows(count: int) -> None:
    rng = random.Random(count)
    times = [rng.randrange(1, 2**40) for _ in range(count)]
    table = table_of([replace(ROW, ns_per_unit=time) for time in times])
    evidence = gather_tables([table], [], failed=[])
    assert evidence.works[0].median_ns_per_unit == lower_median(times)
    assert evidence.medians[0].ns_per_unit == lower_median(times)


def test_sums_beyond_64_bits_are_exact() -> None:
    rows = [replace(ROW, work_units=2**62)] * 9
    evidence = gather_tables([table_of(rows)], [], failed=[])
    assert evidence.works[0].work_units == 9 * 2**62


def test_rolls_and_verdicts_are_summed_by_the_law() -> None:
    rolls = [
        Roll(number, (presence(MINERS[0], CHUTES[0]),), (Claimed(MINERS[1].identity, "c", 5),))
        for number in range(3)
    ]
    failed = ["b", "a", "b"]
    twin = gather_tables([table_of([ROW])], rolls, failed=failed)
    law = gather([ROW], rolls, failed=failed)
    assert twin == law
    assert evidence_digest(twin) == evidence_digest(law)
    assert score(twin, LOCAL) == score(law, LOCAL)
    assert twin.failed == ("a", "b")


def test_a_window_without_rows_is_empty_evidence() -> None:
    assert gather_tables([table_of([])] * 2, [], failed=[]) == gather([], [], failed=[])


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": 2},
        {"counts": -1},
        {"success": 2},
        {"bucket": BUCKET_MAX + 1},
        {"bucket": -1},
        {"work_units": -1},
        {"ns_per_unit": -1},
    ],
)
def test_a_row_that_no_record_can_give_is_refused_at_its_place(changes: dict[str, Any]) -> None:
    with pytest.raises(Difference) as caught:
        Columns().add(replace(ROW, **changes), "epoch 7: entry 3")
    assert caught.value.where == "epoch 7: entry 3"
