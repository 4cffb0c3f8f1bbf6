"""The audit: honest logs are identical, and every lie is found at the place where it is told."""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.client.published_log import (
    CHUTES,
    EPOCHS,
    FIRST_EPOCH_FILE,
    LAST,
    LIAR,
    LOG_KEY,
    MINERS,
    OPERATOR,
    STRANGER,
    VALIDATORS,
    Alterations,
    DictSource,
    PublishedLog,
    add_lie,
    add_traffic,
    auditor,
    edited,
    make_log,
    order_for,
    presence,
    served,
    with_column,
    with_table,
)
from tests.makers import ToyKey

from penstock.client.errors import Difference, NotPublished
from penstock.spec.canon import canonical, parse
from penstock.spec.entries import Close
from penstock.spec.messages import Charter, Report, Settlement
from penstock.spec.receipts import Record

OUTCOME = f"epochs/{LAST:08d}/outcome.json"
ABOUT = f"epochs/{LAST:08d}/epoch.json"
SEGMENT = f"epochs/{LAST:08d}/segment.parquet"
Files = dict[str, bytes]


async def difference(files: Files) -> Difference:
    with pytest.raises(Difference) as caught:
        await auditor(DictSource(files)).audit(LAST)
    return caught.value


async def difference_in(alter: Alterations) -> Difference:
    return await difference((await make_log(alter)).published)


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


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (lambda report: replace(report, evidence_digest="0" * 64), "evidence_digest"),
        (lambda report: replace(report, log_size=report.log_size + 1), "log_size"),
        (lambda report: replace(report, log_root="0" * 64), "log_root"),
        (lambda report: replace(report, policy="v2"), "policy"),
        (lambda report: replace(report, epoch=report.epoch - 1), "epoch"),
        (lambda report: replace(report, scores=report.scores[1:]), "scores: miners"),
        (
            lambda report: replace(
                report,
                scores=(replace(report.scores[0], speed_ppm=7), *report.scores[1:]),
            ),
            f"scores: {min(MINERS[0].identity, MINERS[1].identity, LIAR.identity)}: speed_ppm",
        ),
    ],
)
async def test_a_changed_report_signed_again_is_named(
    alter: Callable[[Report], Report], where: str
) -> None:
    found = await difference_in(Alterations(report=alter))
    assert re.fullmatch(rf"entry \d+: report: {re.escape(where)}", found.where)


async def test_a_report_by_a_stranger_is_found() -> None:
    found = await difference_in(Alterations(reporters=(STRANGER,)))
    assert found.published == STRANGER.identity
    assert found.recomputed == "a seat of the charter"


async def test_a_report_in_the_name_of_another_is_found() -> None:
    def pose(report: Report) -> Report:
        return replace(report, validator=VALIDATORS[0].identity)

    found = await difference_in(Alterations(report=pose, reporters=VALIDATORS[1:]))
    assert found.where.endswith("report: signer")


@pytest.mark.parametrize(
    ("alter", "name"),
    [
        (lambda one: replace(one, pool_nano=one.pool_nano + 1), "pool_nano"),
        (lambda one: replace(one, reserve_nano=one.reserve_nano - 1), "reserve_nano"),
        (lambda one: replace(one, payouts=one.payouts[1:]), "payouts"),
        (lambda one: replace(one, reports=one.reports[1:]), "reports"),
        (lambda one: replace(one, epoch=one.epoch - 1), "epoch"),
        (
            lambda one: replace(
                one,
                payouts=(
                    replace(one.payouts[0], amount_nano=one.payouts[0].amount_nano + 1),
                    *one.payouts[1:],
                ),
            ),
            "payouts",
        ),
        (
            lambda one: replace(one, weights=(replace(one.weights[0], ppm=1), *one.weights[1:])),
            "weights",
        ),
    ],
)
async def test_a_changed_settlement_signed_again_is_named(
    alter: Callable[[Settlement], Settlement], name: str
) -> None:
    found = await difference_in(Alterations(settlement=alter))
    assert re.fullmatch(rf"entry \d+: settlement: {name}", found.where)


async def test_a_settlement_signed_by_another_key_is_found() -> None:
    found = await difference_in(Alterations(settlement_key=OPERATOR))
    assert found.where.endswith("settlement: signer")


async def test_an_epoch_that_is_not_settled_yet_is_not_published() -> None:
    files = (await make_log(is_settled=False)).published
    with pytest.raises(NotPublished) as caught:
        await auditor(DictSource(files)).audit(LAST)
    assert caught.value.name == OUTCOME


async def test_an_outcome_without_a_settlement_is_not_published_yet() -> None:
    files = (await make_log(Alterations(is_settled=False))).published
    with pytest.raises(NotPublished) as caught:
        await auditor(DictSource(files)).audit(LAST)
    assert caught.value.name == f"the settlement of epoch {LAST}"


async def test_a_settlement_that_is_listed_twice_is_found(files: Files) -> None:
    def double(outcome: dict[str, Any]) -> None:
        outcome["entries"].append(outcome["entries"][-1])

    found = await difference(edited(files, OUTCOME, double))
    assert found.where.startswith(f"{OUTCOME}: entries[")
    assert found.where.endswith(": seq")


async def test_a_report_that_was_left_out_changes_the_settlement(files: Files) -> None:
    def drop(outcome: dict[str, Any]) -> None:
        del outcome["entries"][1]

    found = await difference(edited(files, OUTCOME, drop))
    assert found.where.endswith("settlement: reports")


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.update(seq=item["seq"] - 1),
        lambda item: item.update(seq=True),
        lambda item: item.update(seq="1"),
        lambda item: item.update(proof=item["proof"][1:]),
        lambda item: item.update(proof=[*item["proof"], "0" * 64]),
        lambda item: item.update(proof=[part.upper() for part in item["proof"]]),
        lambda item: item.update(proof="0" * 64),
        lambda item: item.update(proof=[1]),
        lambda item: item.update(leaf=7),
        lambda item: item.update(leaf=item["leaf"] + "\n"),
        lambda item: item.update(leaf=b64encode(b64decode(item["leaf"]) + b" ").decode()),
        lambda item: item.pop("seq"),
    ],
)
async def test_an_outcome_entry_must_be_proven_in_one_spelling(
    change: Callable[[dict[str, Any]], Any], files: Files
) -> None:
    found = await difference(edited(files, OUTCOME, lambda outcome: change(outcome["entries"][-1])))
    assert f"{OUTCOME}: entries[" in found.where


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, 2**53 - 1, -1])
@pytest.mark.parametrize(
    "field", ["epoch", "first_seq", "count", "segment_sha256", "frontier", "checkpoint"]
)
async def test_a_value_of_another_type_in_epoch_json_is_found(
    field: str, value: Any, files: Files
) -> None:
    found = await difference(edited(files, ABOUT, lambda about: about.update({field: value})))
    assert found.where.startswith((ABOUT, SEGMENT))


@pytest.mark.parametrize(
    "frontier",
    [
        {"size": True, "roots": ["0" * 64]},
        {"size": -1, "roots": []},
        {"size": 1, "roots": []},
        {"size": 1, "roots": [1]},
        {"size": 1, "roots": "0" * 64},
        {"size": 1, "roots": ["0" * 62]},
        {"size": 1},
        [1],
    ],
)
async def test_a_malformed_frontier_is_found(frontier: Any, files: Files) -> None:
    found = await difference(edited(files, ABOUT, lambda about: about.update(frontier=frontier)))
    assert found.where.startswith(f"{ABOUT}: frontier")


async def test_the_spelling_of_hashes_cannot_be_changed(files: Files) -> None:
    def shout(about: dict[str, Any]) -> None:
        about["frontier"]["roots"] = [root.upper() for root in about["frontier"]["roots"]]

    assert (await difference(edited(files, ABOUT, shout))).where == f"{ABOUT}: frontier: roots"


async def test_a_log_under_another_key_is_refused() -> None:
    other = type(LOG_KEY)(bytes(32))
    found = await difference_in(Alterations(log_key=other, reporters=()))
    assert found.where == f"{ABOUT}: checkpoint"


async def test_a_log_that_names_another_key_than_the_known_one_is_refused(files: Files) -> None:
    other = type(LOG_KEY)(bytes(32)).identity
    found = await difference(
        edited(files, "operator.json", lambda about: about.update(log_key=other))
    )
    assert found.where == "operator.json: log_key"


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("network", "elsewhere", "operator.json: network"),
        ("log_key", "ed25519:xyz", "operator.json: log_key"),
        ("log_key", OPERATOR.identity, "operator.json: log_key"),
        ("log_key", 5, "operator.json"),
        ("operator", STRANGER.identity, "charter: signer"),
        ("origin", "other.example/log", "checkpoint"),
    ],
)
async def test_operator_json_must_be_borne_out_by_the_log(
    field: str, value: Any, where: str, files: Files
) -> None:
    found = await difference(
        edited(files, "operator.json", lambda about: about.update({field: value}))
    )
    assert where in found.where


async def test_the_checkpoint_of_an_older_epoch_is_not_this_ones(files: Files) -> None:
    older = parse(files[FIRST_EPOCH_FILE])["checkpoint"]
    found = await difference(edited(files, ABOUT, lambda about: about.update(checkpoint=older)))
    assert found.where == f"{ABOUT}: count"


async def test_an_omitted_epoch_is_found_in_the_log() -> None:
    """The ledger claims that the epoch before the last was never closed."""

    def omit(close: Close) -> Close:
        return replace(close, previous=EPOCHS[0]) if close.epoch == LAST else close

    found = await difference_in(Alterations(close=omit, reporters=(), is_settled=False))
    assert found.where == f"epoch {EPOCHS[0]}: log at its end"


async def test_a_log_that_claims_to_begin_late_is_found() -> None:
    def forget(close: Close) -> Close:
        return replace(close, previous=-1) if close.epoch == LAST else close

    found = await difference_in(Alterations(close=forget, reporters=(), is_settled=False))
    assert found.where == f"epoch {LAST}: last entry: previous: entries before"


@pytest.mark.parametrize("previous", [LAST, LAST + 1, -2])
async def test_a_close_names_an_earlier_epoch(previous: int) -> None:
    def alter(close: Close) -> Close:
        return replace(close, previous=previous) if close.epoch == LAST else close

    found = await difference_in(Alterations(close=alter, reporters=(), is_settled=False))
    assert found.where == f"epoch {LAST}: last entry: previous"


async def test_an_epoch_whose_files_were_taken_away_is_a_difference(files: Files) -> None:
    del files[FIRST_EPOCH_FILE]
    found = await difference(files)
    assert found.where == f"epochs/{EPOCHS[0]:08d}"
    assert found.published == "nothing"


async def test_an_epoch_that_closes_under_another_number_is_found() -> None:
    def alter(close: Close) -> Close:
        return replace(close, epoch=close.epoch + 1) if close.epoch == LAST else close

    found = await difference_in(Alterations(close=alter, reporters=(), is_settled=False))
    assert found.where == f"epoch {LAST}: last entry: epoch"


async def test_a_record_logged_twice_is_found() -> None:
    found = await difference_in(Alterations(records_twice=True))
    assert found.recomputed == "an id is logged once"
    assert "again" in found.published


async def test_a_record_of_another_epoch_logged_again_is_found() -> None:
    """The double stands in another segment, where nobody who reads one epoch sees it."""
    log = PublishedLog()
    log.add_charter()
    for _ in EPOCHS:
        epoch, log.epoch = log.epoch, EPOCHS[0]
        add_traffic(log)
        log.epoch = epoch
        await log.close()
    await log.settle(LAST)
    assert (await difference(log.published)).recomputed == "an id is logged once"


async def test_a_record_that_does_not_hold_is_found() -> None:
    def forge(record: Record) -> Record:
        assert record.countersign is not None
        body = {**record.countersign.body, "total_us": 1}
        return replace(record, countersign=replace(record.countersign, body=body))

    found = await difference_in(Alterations(record=forge))
    assert re.fullmatch(rf"epoch {EPOCHS[0]}: entry \d+", found.where)
    assert "does not hold" in found.published


async def test_a_roll_that_the_market_did_not_sign_is_found() -> None:
    found = await difference_in(Alterations(roll_key=STRANGER, reporters=(), is_settled=False))
    assert re.fullmatch(r"entry \d+: roll: signer", found.where)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"origin": "other"}, "origin"),
        ({"operator": STRANGER.identity}, "operator"),
        ({"ledger": STRANGER.identity}, "ledger"),
        ({"network": "mainnet"}, "network"),
    ],
)
async def test_a_charter_of_another_market_is_found(changes: dict[str, Any], where: str) -> None:
    def alter(charter: Charter) -> Charter:
        return replace(charter, **changes)

    found = await difference_in(Alterations(charter=alter, reporters=()))
    assert re.fullmatch(rf"entry 0: charter: {where}", found.where)


async def test_a_charter_with_other_numbers_is_found() -> None:
    def alter(charter: Charter) -> Charter:
        return replace(charter, params_digest="0" * 64)

    found = await difference_in(Alterations(charter=alter, reporters=()))
    assert found.where == "charter: params_digest"


async def test_a_log_without_a_charter_is_found() -> None:
    log = PublishedLog(Alterations(reporters=()))
    add_traffic(log)
    await log.close()
    await log.settle(EPOCHS[0])
    with pytest.raises(Difference) as caught:
        await auditor(DictSource(log.published)).audit(EPOCHS[0])
    assert caught.value.where == "charter"


async def test_the_newest_charter_before_the_close_governs() -> None:
    """A later charter, logged after the close, changes nothing for the epoch before it."""
    log = await make_log(is_settled=False)
    await log.settle(LAST)
    log.add_charter(seats=())
    audit = await auditor(DictSource(log.published)).audit(LAST)
    assert audit.reports == 3


@pytest.mark.parametrize(("accuser", "is_paid"), [(VALIDATORS[1], False), (STRANGER, True)])
async def test_only_a_validators_verdict_condemns(accuser: ToyKey, *, is_paid: bool) -> None:
    log = PublishedLog()
    log.add_charter()
    add_traffic(log)
    add_lie(log, accuser)
    log.add_roll([presence(LIAR, CHUTES[0])])
    await log.close()
    await log.settle(EPOCHS[0])
    audit = await auditor(DictSource(log.published)).audit(EPOCHS[0])
    paid = {payout.identity for payout in audit.settlement.payouts}
    assert (LIAR.identity in paid) is is_paid


async def test_numbers_beyond_the_law_are_a_difference_and_no_crash() -> None:
    """The market signs more beats than any canonical number can count."""
    log = PublishedLog(Alterations(reporters=()))
    log.add_charter()
    endless = presence(MINERS[0], CHUTES[0], beats_seen=2**53 - 1, beats_due=2**53 - 1)
    log.add_roll([endless, endless])
    await log.close()
    await log.settle(EPOCHS[0])
    with pytest.raises(Difference) as caught:
        await auditor(DictSource(log.published)).audit(EPOCHS[0])
    assert caught.value.where == f"evidence of epoch {EPOCHS[0]}"


async def test_a_charge_below_zero_is_a_difference_and_no_crash() -> None:
    order = order_for("o-1", MINERS[0], chute=CHUTES[0])
    negative = served(replace(order, charge_max=-1_000), MINERS[0], total_us=1)
    log = PublishedLog(Alterations(reporters=(), record=lambda _: negative))
    log.add_charter()
    log.add_record(served(order, MINERS[0], total_us=1))
    await log.close()
    await log.settle(EPOCHS[0])
    with pytest.raises(Difference) as caught:
        await auditor(DictSource(log.published)).audit(EPOCHS[0])
    assert caught.value.where == f"epoch {EPOCHS[0]}: entry 1"


async def test_a_changed_outcome_of_an_earlier_epoch_of_the_window_is_found() -> None:
    """It does not enter this epoch's numbers, but a changed byte anywhere is to be found."""
    log = await make_log()
    next_epoch = LAST + 1
    log.epoch = next_epoch
    await log.close()
    await log.settle(next_epoch)
    files = log.published
    await auditor(DictSource(files)).audit(next_epoch)
    for place in range(0, len(files[OUTCOME]), 1 + len(files[OUTCOME]) // 97):
        data = files[OUTCOME]
        changed = {**files, OUTCOME: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]}
        with pytest.raises(Difference):
            await auditor(DictSource(changed)).audit(next_epoch)


async def test_a_newest_checkpoint_that_is_older_than_the_epoch_is_found() -> None:
    log = await make_log()
    old = log.published["checkpoint"]
    log.epoch = LAST + 1
    await log.close()
    await log.settle(LAST + 1)
    with pytest.raises(Difference) as caught:
        await auditor(DictSource({**log.published, "checkpoint": old})).audit(LAST + 1)
    assert caught.value.where == "checkpoint: size"
