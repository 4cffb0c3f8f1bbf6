"""A published log whose records are under seals, with decisions in them: audited like any other."""

import functools
from dataclasses import replace
from typing import Any

import pytest
from tests.client.published_log import (
    EPOCHS,
    LAST,
    LIAR,
    MINERS,
    Alterations,
    DictSource,
    auditor,
    make_log,
)
from tests.makers import GATEWAY, make_decision, sealed

from penstock.client.errors import Difference
from penstock.spec.receipts import Record

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
