"""The audit: honest logs are identical, and every lie is found at the place where it is told."""

import re
from typing import Any

import pytest
from tests.client.altered_files import difference, edited, with_column, with_table
from tests.client.memory_log import DictSource
from tests.client.published_log import (
    EPOCHS,
    FIRST_EPOCH_FILE,
    LAST,
    MINERS,
    Alterations,
    auditor,
    make_log,
)

from penstock.client.errors import Difference
from penstock.spec.canon import canonical, parse

OUTCOME = f"epochs/{LAST:08d}/outcome.json"
ABOUT = f"epochs/{LAST:08d}/epoch.json"
SEGMENT = f"epochs/{LAST:08d}/segment.parquet"
Files = dict[str, bytes]


@pytest.fixture
async def files() -> Files:
    return (await make_log()).published


async def test_an_honest_log_is_identical(files: Files) -> None:
    audit = await auditor(DictSource(files)).audit(LAST)
    assert audit.epochs == EPOCHS
    assert (audit.records, audit.reports) == (28, 3)
    assert audit.settlement.pool_nano > 0
    paid = sum(payout.amount_nano for payout in audit.settlement.payouts)
    assert paid + audit.settlement.reserve_nano == audit.settlement.pool_nano
    weighed = {weight.miner for weight in audit.settlement.weights}
    assert weighed == {miner.identity for miner in MINERS}, "the liar is paid nothing"


async def test_an_audit_tells_how_far_it_is(files: Files) -> None:
    told: list[tuple[str, int, int]] = []
    await auditor(DictSource(files)).audit(LAST, progress=lambda *step: told.append(step))
    assert ("segments", 0, 10) in told
    assert any(what == f"records of epoch {EPOCHS[0]}" for what, _, _ in told)


async def test_an_epoch_without_reports_leaves_the_pool_in_reserve() -> None:
    files = (await make_log(Alterations(reporters=()))).published
    audit = await auditor(DictSource(files)).audit(LAST)
    assert (audit.reports, audit.settlement.payouts) == (0, ())
    assert audit.settlement.reserve_nano == audit.settlement.pool_nano


async def test_epochs_that_are_older_than_the_window_are_not_read() -> None:
    log = await make_log()
    log.epoch = EPOCHS[0] + 10
    await log.close()
    await log.settle(EPOCHS[0] + 10)
    files = log.published
    del files[FIRST_EPOCH_FILE]
    audit = await auditor(DictSource(files)).audit(EPOCHS[0] + 10)
    assert audit.epochs == (*EPOCHS[1:], EPOCHS[0] + 10)


@pytest.mark.parametrize(
    "name",
    [
        "operator.json",
        "checkpoint",
        f"epochs/{EPOCHS[1]:08d}/epoch.json",
        f"epochs/{EPOCHS[1]:08d}/segment.parquet",
        ABOUT,
        SEGMENT,
        OUTCOME,
    ],
)
async def test_any_changed_byte_of_any_file_is_a_difference(name: str, files: Files) -> None:
    """A sample of positions; one bit at a time, among them the one that changes upper case."""
    data = files[name]
    for place in range(0, len(data), 1 + len(data) // 97):
        for bit in (1, 32):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            found = await difference({**files, name: changed})
            folder = name.rpartition("/")[0]
            assert folder in found.where, "operator.json is told by what it no longer fits"


@pytest.mark.parametrize("name", ["operator.json", ABOUT, OUTCOME])
@pytest.mark.parametrize("extra", [b" ", b"\n", b"\0"])
async def test_whitespace_around_a_file_is_a_difference(
    name: str, extra: bytes, files: Files
) -> None:
    for data in (files[name] + extra, extra + files[name]):
        found = await difference({**files, name: data})
        assert found.where == name


async def test_spaces_within_a_file_are_a_difference(files: Files) -> None:
    changed = {**files, ABOUT: files[ABOUT].replace(b",", b", ", 1)}
    assert (await difference(changed)).where == ABOUT


def spoil(value: Any) -> Any:
    """Another value of the same type."""
    return value + 1 if isinstance(value, int) else value + "x"


@pytest.mark.parametrize(
    "name",
    [
        *("order_id", "chute", "instance", "miner", "outcome", "prompt", "cached", "completion"),
        *("charge_nano", "earned_nano", "work_units", "bucket", "ns_per_unit", "ttft_us"),
        *("total_us", "counts", "success"),
    ],
)
async def test_a_changed_column_of_a_row_is_named(name: str, files: Files) -> None:
    def change(values: list[Any]) -> None:
        values[0] = spoil(values[0])

    found = await difference(with_column(files, LAST, name, change))
    assert re.fullmatch(rf"epoch {LAST}: entry \d+: {name}", found.where)


@pytest.mark.parametrize("name", ["seq", "kind", "entry_id"])
async def test_a_column_beside_its_leaf_is_compared_with_it(name: str, files: Files) -> None:
    def change(values: list[Any]) -> None:
        values[2] = values[3] if name == "seq" else "charter"

    found = await difference(with_column(files, LAST, name, change))
    assert found.where == f"{SEGMENT}: row 2: {name}"


async def test_a_changed_leaf_leads_to_another_root(files: Files) -> None:
    def change(values: list[Any]) -> None:
        leaf = parse(values[0])
        leaf["body"]["order"]["signature"] = "0" * 64
        values[0] = canonical(leaf)

    found = await difference(with_column(files, LAST, "leaf", change))
    assert found.where == f"{SEGMENT}: log root"


async def test_a_leaf_that_is_no_entry_is_named(files: Files) -> None:
    def change(values: list[Any]) -> None:
        values[1] = b'{"body": 1}'

    found = await difference(with_column(files, LAST, "leaf", change))
    assert found.where == f"{SEGMENT}: row 1"


async def test_a_dropped_record_is_found(files: Files) -> None:
    dropped = with_table(files, LAST, lambda table: table.slice(0, table.num_rows - 1))
    assert (await difference(dropped)).where == f"{SEGMENT}: rows"

    def drop(about: dict[str, Any]) -> None:
        about["count"] -= 1

    assert (await difference(edited(dropped, ABOUT, drop))).where == f"{ABOUT}: count"


async def test_reordered_records_are_found(files: Files) -> None:
    swapped = with_table(files, LAST, lambda table: table.take([1, 0, *range(2, table.num_rows)]))
    assert (await difference(swapped)).where == f"{SEGMENT}: row 0: seq"

    def renumber(values: list[Any]) -> None:
        values[:2] = sorted(values[:2])

    found = await difference(with_column(swapped, LAST, "seq", renumber))
    assert found.where == f"{SEGMENT}: log root"


async def test_a_record_without_its_row_is_found(files: Files) -> None:
    def change(values: list[Any]) -> None:
        values[0] = None

    found = await difference(with_column(files, LAST, "miner", change))
    assert found == Difference(f"{SEGMENT}: row 0", "a record without its row", "a row") or (
        found.where == f"{SEGMENT}: row 0"
    )


async def test_a_row_beside_another_kind_of_entry_is_found(files: Files) -> None:
    def change(values: list[Any]) -> None:
        values[-1] = 5

    found = await difference(with_column(files, LAST, "prompt", change))
    assert found.published == "a row"


async def test_a_column_of_another_type_is_found(files: Files) -> None:
    def change(table: Any) -> Any:
        texts = table.column("prompt").cast("string")
        return table.set_column(table.column_names.index("prompt"), "prompt", texts)

    assert (await difference(with_table(files, LAST, change))).where == f"{SEGMENT}: columns"


async def test_a_second_column_of_a_name_is_found(files: Files) -> None:
    def change(table: Any) -> Any:
        return table.append_column("seq", table.column("seq"))

    assert (await difference(with_table(files, LAST, change))).where == f"{SEGMENT}: columns"
