"""Who pays: each row of the table of outcomes, and each lie that is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import (
    GATEWAY,
    MINER,
    ToyKey,
    make_checkpoint,
    make_countersign,
    make_decision,
    make_order,
    make_receipt,
    make_record,
    toy_verify,
)

from penstock.spec.canon import to_plain
from penstock.spec.errors import BadIdentity, BadMessage, BadSignature, SpecError
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.pricing import cost
from penstock.spec.receipts import (
    WAIT_US_MAX,
    Judgement,
    Outcome,
    Record,
    charge_for,
    decision_digest,
    is_valid,
    judge,
    parse_record,
    record_digest,
    record_id,
)
from penstock.spec.routing import DECISION_SHOWN_MAX, Decision
from penstock.spec.units import NO_UNITS, Units

ORDER = make_order()
TEN = Units(prompt=20, cached=0, completion=10, images=0, audio_ms=0)
FOUR = Units(prompt=20, cached=0, completion=4, images=0, audio_ms=0)


def told(record: Record) -> Judgement:
    return judge(record, refusal_free_ms=100, verify=toy_verify)


def receipt_of(order: Order = ORDER, key: ToyKey = MINER, **changes: Any) -> Signed:
    return sign("receipt", make_receipt(order, **changes), key)


def record_of(receipt: Signed | None, *, checkpoint: bool = False, **seen: Any) -> Record:
    return Record(
        order=sign("order", ORDER, GATEWAY),
        receipt=receipt,
        checkpoint=sign("checkpoint", make_checkpoint(ORDER), MINER) if checkpoint else None,
        countersign=sign("countersign", make_countersign(ORDER, receipt, **seen), GATEWAY),
    )


def test_a_complete_answer_costs_the_price_of_its_units() -> None:
    judgement = told(make_record())
    assert judgement.outcome is Outcome.COMPLETE
    assert judgement.charge_nano == judgement.earned_nano == cost(ORDER.price, TEN)
    assert judgement.counts


def test_an_answer_without_any_units_is_no_success() -> None:
    """Else a miner could blame every request, work nothing, and count as available."""
    blamed = receipt_of(units=NO_UNITS)
    judgement = told(record_of(blamed))
    assert (judgement.outcome, judgement.charge_nano) == (Outcome.COMPLETE, 0)
    assert not judgement.counts


@pytest.mark.parametrize(
    "changes",
    [
        {"charge_max": -1},
        {"prompt_max": -1},
        {"completion_max": -1},
        {"price": replace(ORDER.price, request=-1)},
    ],
)
def test_an_order_under_which_a_charge_could_be_negative_is_no_record(
    changes: dict[str, Any],
) -> None:
    """Else a miner could be made to pay for its own work."""
    order = replace(ORDER, **changes)
    receipt = receipt_of(order, outcome=Outcome.MINER_FAILED)
    seen = make_countersign(order, receipt, outcome=Outcome.MINER_FAILED)
    record = Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", seen, GATEWAY),
    )
    with pytest.raises(BadMessage):
        told(record)


def test_a_match_without_a_receipt_is_refused() -> None:
    with pytest.raises(BadMessage):
        told(record_of(None, match=True))


def test_a_cancelled_answer_costs_the_prefix_of_a_matching_receipt() -> None:
    receipt = receipt_of(outcome=Outcome.CLIENT_CANCELLED, units=FOUR)
    judgement = told(record_of(receipt, outcome=Outcome.CLIENT_CANCELLED))
    assert judgement.charge_nano == cost(ORDER.price, FOUR)
    assert not judgement.counts


def test_a_cancelled_answer_without_a_receipt_costs_its_last_checkpoint() -> None:
    charge = charge_for(ORDER, FOUR)
    record = record_of(None, checkpoint=True, outcome=Outcome.CLIENT_CANCELLED, charge_nano=charge)
    assert told(record).charge_nano == charge


def test_a_cancelled_answer_that_proved_nothing_is_free() -> None:
    judgement = told(record_of(None, outcome=Outcome.CLIENT_CANCELLED))
    assert (judgement.units, judgement.charge_nano) == (NO_UNITS, 0)


def test_a_cancelled_receipt_that_does_not_match_the_bytes_proves_nothing() -> None:
    receipt = receipt_of(outcome=Outcome.CLIENT_CANCELLED)
    record = record_of(receipt, outcome=Outcome.CLIENT_CANCELLED, match=False, charge_nano=0)
    assert told(record).charge_nano == 0


def test_when_the_miner_failed_nobody_pays_and_it_counts() -> None:
    judgement = told(record_of(None, checkpoint=True))
    assert (judgement.outcome, judgement.charge_nano) == (Outcome.MINER_FAILED, 0)
    assert judgement.counts


def test_when_the_gateway_failed_the_miner_earns_and_the_payer_does_not_pay() -> None:
    record = replace(make_record(), countersign=None)
    judgement = told(record)
    assert judgement.outcome is Outcome.GATEWAY_FAILED
    assert (judgement.charge_nano, judgement.earned_nano) == (0, cost(ORDER.price, TEN))
    assert not judgement.counts


def test_a_quick_refusal_is_free_of_penalty_and_a_late_one_is_not() -> None:
    refused = receipt_of(outcome=Outcome.REFUSED)
    quick = record_of(refused, outcome=Outcome.REFUSED, total_us=100_000)
    late = record_of(refused, outcome=Outcome.REFUSED, total_us=100_001)
    assert (told(quick).counts, told(late).counts) == (False, True)
    assert told(late).charge_nano == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"order_digest": "00"},
        {"order_id": "o-2"},
        {"chute": "sha256:00"},
        {"gateway": MINER.identity},
        {"payer_tag": "q"},
        {"charge_nano": 1},
        {"units": Units(101, 0, 1, 0, 0)},
        {"units": Units(1, 0, 51, 0, 0)},
        {"units": Units(1, 2, 1, 0, 0)},
        {"units": Units(-1, -2, 1, 0, 0)},
        {"units": Units(1, 0, 1, 1, 0)},
        {"units": Units(1, 0, 1, 0, 1)},
        {"response_bytes": -1},
        {"events": -1},
        {"first_ms": 0},
    ],
)
def test_a_receipt_that_lies_about_its_order_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        told(record_of(receipt_of(**changes)))


def test_a_receipt_by_another_key_is_refused() -> None:
    with pytest.raises(BadMessage):
        told(record_of(receipt_of(key=ToyKey("thief"))))


@pytest.mark.parametrize(
    "changes",
    [
        {"order_digest": "00"},
        {"order_id": "o-2"},
        {"receipt_digest": "00"},
        {"charge_nano": 1},
        {"match": False},
        {"response_bytes": 7},
        {"total_us": -1},
        {"total_us": WAIT_US_MAX + 1},
        {"outcome": Outcome.GATEWAY_FAILED},
        {"outcome": Outcome.REFUSED},
    ],
)
def test_a_countersignature_that_lies_is_refused(changes: dict[str, Any]) -> None:
    assert not is_valid(record_of(receipt_of(), **changes), refusal_free_ms=100, verify=toy_verify)


def test_only_the_orders_gateway_countersigns() -> None:
    record = make_record()
    seen = make_countersign(ORDER, record.receipt)
    with pytest.raises(BadMessage):
        told(replace(record, countersign=sign("countersign", seen, MINER)))


def test_only_the_gateway_an_order_names_signs_it() -> None:
    with pytest.raises(BadMessage):
        told(replace(make_record(), order=sign("order", ORDER, MINER)))


def test_an_order_alone_is_no_record() -> None:
    with pytest.raises(BadMessage):
        told(replace(make_record(), receipt=None, countersign=None))


@pytest.mark.parametrize(
    "changes", [{"order_id": "o-2"}, {"order_digest": "00"}, {"events": -1}, {"body_bytes": -1}]
)
def test_a_checkpoint_of_another_order_or_of_less_than_nothing_is_refused(
    changes: dict[str, Any],
) -> None:
    other = sign("checkpoint", make_checkpoint(ORDER, **changes), MINER)
    with pytest.raises(BadMessage):
        told(replace(make_record(), checkpoint=other))


def test_a_checkpoint_of_another_miner_is_refused() -> None:
    record = make_record()
    stranger = sign("checkpoint", make_checkpoint(ORDER), GATEWAY)
    with pytest.raises(BadMessage):
        told(replace(record, checkpoint=stranger))


def test_an_honest_record_is_valid_and_round_trips() -> None:
    record = make_record()
    assert is_valid(record, refusal_free_ms=100, verify=toy_verify)
    assert parse_record(to_plain(record)) == record
    assert parse_record(to_plain(record_of(None))) == record_of(None)
    assert record_digest(parse_record(to_plain(record))) == record_digest(record)


@pytest.mark.parametrize("value", [None, {}, {"order": 1}])
def test_what_is_no_record_is_refused(value: object) -> None:
    with pytest.raises(BadMessage):
        parse_record(value)


def test_a_record_is_named_by_its_order() -> None:
    record = make_record()
    assert record_id(record) == "o-1"
    nameless = replace(record, order=replace(record.order, body={}))
    with pytest.raises(BadMessage):
        record_id(nameless)


def test_a_tampered_order_breaks_the_record() -> None:
    record = make_record()
    body = {**record.order.body, "charge_max": 10**12}
    with pytest.raises(BadSignature):
        told(replace(record, order=replace(record.order, body=body)))


@pytest.mark.parametrize("name", ["checkpoint", "receipt"])
def test_a_word_for_one_order_never_stands_for_another_of_the_same_id(name: str) -> None:
    """A gateway that signs a second, cheaper order under one id cannot use words for the first."""
    cheap = replace(ORDER, price=replace(ORDER.price, completion=0))
    charge = charge_for(cheap, FOUR)
    word = make_checkpoint(ORDER) if name == "checkpoint" else make_receipt(ORDER)
    signed = sign(name, word, MINER)
    receipt = signed if name == "receipt" else None
    seen = make_countersign(
        cheap, receipt, outcome=Outcome.CLIENT_CANCELLED, charge_nano=charge, match=False
    )
    record = Record(
        order=sign("order", cheap, GATEWAY),
        receipt=receipt,
        checkpoint=signed if name == "checkpoint" else None,
        countersign=sign("countersign", seen, GATEWAY),
    )
    with pytest.raises(BadMessage):
        told(record)


@given(st.integers(0, 100), st.integers(0, 50), st.integers(0, 10**6))
def test_nobody_is_ever_charged_above_the_ceiling(
    prompt: int, completion: int, ceiling: int
) -> None:
    order = replace(ORDER, charge_max=ceiling)
    units = Units(prompt=prompt, cached=0, completion=completion, images=0, audio_ms=0)
    assert charge_for(order, units) <= ceiling


def test_the_digest_of_a_receipt_is_what_the_countersignature_names() -> None:
    record = make_record()
    assert record.receipt is not None
    assert record.countersign is not None
    assert record.countersign.body["receipt_digest"] == signed_digest(record.receipt)


@pytest.mark.parametrize("miner", ["", "somebody", "ed25519:00"])
def test_a_failure_cannot_be_laid_on_a_name_that_no_key_has(miner: str) -> None:
    order = replace(ORDER, miner=miner)
    record = Record(
        order=sign("order", order, GATEWAY),
        receipt=None,
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, None), GATEWAY),
    )
    with pytest.raises(BadIdentity):
        told(record)


DECISION = make_decision()


def decided(decision: Decision | None = DECISION, *, named: Decision | None = DECISION) -> Record:
    """A record with this decision whose order names that one."""
    record = make_record(make_order(decision_digest=decision_digest(named)))
    return replace(record, decision=decision)


def test_a_record_keeps_the_decision_that_its_order_names() -> None:
    record = decided()
    assert told(record).outcome is Outcome.COMPLETE
    assert parse_record(to_plain(record)) == record
    assert record_digest(record) != record_digest(make_record())


def test_the_digest_of_no_decision_is_empty() -> None:
    assert decision_digest(None) == ""
    assert len(decision_digest(DECISION)) == 64


@pytest.mark.parametrize(
    ("decision", "named"),
    [
        (None, DECISION),
        (DECISION, None),
        (replace(DECISION, seed=8), DECISION),
        (replace(DECISION, choice="miner-2"), DECISION),
        (replace(DECISION, considered=()), DECISION),
    ],
)
def test_a_decision_left_out_added_or_changed_later_is_refused(
    decision: Decision | None, named: Decision | None
) -> None:
    with pytest.raises(BadMessage):
        told(decided(decision, named=named))


def test_a_decision_shows_a_bounded_number_of_instances() -> None:
    full = replace(DECISION, considered=DECISION.considered[:1] * DECISION_SHOWN_MAX)
    assert told(decided(full, named=full))
    longer = replace(DECISION, considered=DECISION.considered[:1] * (DECISION_SHOWN_MAX + 1))
    with pytest.raises(BadMessage):
        told(decided(longer, named=longer))


def test_a_miner_that_claims_alone_needs_no_decision_and_cannot_bring_one() -> None:
    """It never saw it: the order's digest is all that the miner has."""
    alone = replace(decided(None), countersign=None)
    assert told(alone).outcome is Outcome.GATEWAY_FAILED
    with pytest.raises(BadMessage):
        told(replace(alone, decision=DECISION))


def test_a_decision_of_another_shape_is_no_record() -> None:
    plain = to_plain(decided())
    plain["decision"]["extra"] = 1
    with pytest.raises(SpecError):
        parse_record(plain)


@pytest.mark.parametrize("kind", ["images", "audio_ms"])
def test_images_and_audio_are_paid_up_to_their_ceilings(kind: str) -> None:
    price = replace(ORDER.price, images=40_000_000_000_000 // 1_000_000, audio_ms=6_000)
    order = make_order(price=price, charge_max=10**9, **{f"{kind}_max": 3})
    units = replace(TEN, **{kind: 3})
    record = Record(
        order=sign("order", order, GATEWAY),
        receipt=(receipt := sign("receipt", make_receipt(order, units=units), MINER)),
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, receipt), GATEWAY),
    )
    assert told(record).charge_nano == cost(price, units) > cost(price, TEN)
    more = make_receipt(order, units=replace(TEN, **{kind: 4}))
    with pytest.raises(BadMessage):
        told(replace(record, receipt=sign("receipt", more, MINER)))
