"""Reports, settlements and the files that publish them: each change is found and named."""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.client.altered_files import difference, difference_in, edited
from tests.client.memory_log import DictSource
from tests.client.published_log import (
    LAST,
    LIAR,
    MINERS,
    OPERATOR,
    STRANGER,
    VALIDATORS,
    Alterations,
    auditor,
    make_log,
)

from penstock.client.errors import NotPublished
from penstock.spec.messages import Report, Settlement

OUTCOME = f"epochs/{LAST:08d}/outcome.json"
ABOUT = f"epochs/{LAST:08d}/epoch.json"
SEGMENT = f"epochs/{LAST:08d}/segment.parquet"
Files = dict[str, bytes]


@pytest.fixture
async def files() -> Files:
    return (await make_log()).published


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
