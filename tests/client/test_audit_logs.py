"""Whose log it is, what it may hold and what it may leave out: each lie is found and named."""

import re
from dataclasses import replace
from typing import Any

import pytest
from tests.client.altered_files import difference, difference_in, edited
from tests.client.memory_log import DictSource
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
    PublishedLog,
    add_lie,
    add_traffic,
    auditor,
    make_log,
    order_for,
    presence,
    served,
)
from tests.makers import ToyKey

from penstock.client.errors import Difference
from penstock.spec.canon import parse
from penstock.spec.entries import Close
from penstock.spec.messages import Charter
from penstock.spec.receipts import Record

OUTCOME = f"epochs/{LAST:08d}/outcome.json"
ABOUT = f"epochs/{LAST:08d}/epoch.json"
Files = dict[str, bytes]


@pytest.fixture
async def files() -> Files:
    return (await make_log()).published


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
