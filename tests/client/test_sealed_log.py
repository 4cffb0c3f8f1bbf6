"""A published log whose records are under seals, with decisions in them: audited like any other."""

import functools
from dataclasses import replace
from typing import Any

import pytest
from tests.client.memory_log import DictSource
from tests.client.published_log import EPOCHS, LAST, LIAR, MINERS, Alterations, auditor, make_log
from tests.makers import GATEWAY, decided, make_decision, sealed

from penstock.client.errors import Difference
from penstock.spec.receipts import Record
from penstock.spec.routing import POLICY, Considered, Decision

KEYS = {key.identity: key for key in (*MINERS, LIAR)}


def under_seals(record: Record, *, strangers: int = 5) -> Record:
    miner = KEYS[record.order.body["miner"]]
    return sealed(record, gateway=GATEWAY, miner=miner, strangers=strangers)


async def test_a_log_of_sealed_records_is_identical_to_one_of_single_signatures() -> None:
    plain = await auditor(DictSource((await make_log()).published)).audit(LAST)
    alter = Alterations(record=under_seals)
    found = await auditor(DictSource((await make_log(alter)).published)).audit(LAST)
    assert (found.epochs, found.records) == (EPOCHS, plain.records)
    assert found.settlement.payouts == plain.settlement.payouts


@pytest.mark.parametrize("part", ["order", "receipt", "countersign"])
async def test_a_borrowed_seal_anywhere_in_the_window_is_found(part: str) -> None:
    @functools.cache
    def borrowed(miner: str) -> str:
        """The seal of the first record of each miner, put under all its later ones."""
        return str(getattr(first[miner], part).signature)

    first: dict[str, Record] = {}

    def alter(record: Record) -> Record:
        honest = under_seals(record)
        if getattr(honest, part) is None:
            return honest
        miner = honest.order.body["miner"]
        first.setdefault(miner, honest)
        changed: dict[str, Any] = {part: replace(getattr(honest, part), signature=borrowed(miner))}
        return replace(honest, **changed)

    files = (await make_log(Alterations(record=alter))).published
    with pytest.raises(Difference, match="does not hold"):
        await auditor(DictSource(files)).audit(LAST)


async def test_a_decision_that_no_order_names_is_found() -> None:
    alter = Alterations(record=lambda record: replace(record, decision=make_decision()))
    files = (await make_log(alter)).published
    with pytest.raises(Difference, match="decision"):
        await auditor(DictSource(files)).audit(LAST)


def with_decision(record: Record, decision: Decision) -> Record:
    if record.countersign is None:
        return record
    return decided(record, decision, gateway=GATEWAY, miner=KEYS[record.order.body["miner"]])


@pytest.mark.parametrize("merit", [4, 5, 6])
async def test_decisions_that_break_their_policy_are_counted_and_change_nothing(merit: int) -> None:
    """Another one was considered; it would have been the better one only with a lower merit than 5."""
    other = Considered(instance="miner-2", reason="", merit=merit, cached_ppm=0)
    usual = make_decision(policy=POLICY)
    decision = replace(usual, considered=(usual.considered[0], other))
    seen: list[str] = []

    def alter(record: Record) -> Record:
        if record.countersign is not None:
            seen.append(record.order.body["order_id"])
        return with_decision(record, decision)

    plain = await auditor(DictSource((await make_log()).published)).audit(LAST)
    files = (await make_log(Alterations(record=alter))).published
    found = await auditor(DictSource(files)).audit(LAST)
    assert len(seen) > 0
    assert found.decisions_broken == (len(seen) if merit < 5 else 0)
    assert plain.decisions_broken == 0
    assert found.settlement.payouts == plain.settlement.payouts
