"""Receipts: each row of the table of outcomes, and each word that does not hold."""

from dataclasses import replace
from typing import Any

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import (
    WAIT_US_MAX,
    Countersign,
    Outcome,
    Receipt,
    Record,
    charge_for,
    decision_digest,
    judge,
    parse_record,
    record_digest,
)
from penstock.spec.routing import Considered, Decision
from penstock.spec.seals import seal_digest, seal_root, seal_signatures
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Price, Units

MINER, GATEWAY = Ed25519Key(b"m" * 32), Ed25519Key(b"g" * 32)
TEN = Units(prompt=20, cached=0, completion=10, images=0, audio_ms=0)
FOUR = Units(prompt=20, cached=0, completion=4, images=0, audio_ms=0)
PRICE = Price(request=0, prompt=50_000, cached=10_000, completion=200_000, images=0, audio_ms=0)
ORDER = Order(
    order_id="o-" + "00" * 16,
    gateway=GATEWAY.identity,
    miner=MINER.identity,
    instance="m-1",
    chute="sha256:" + "cd" * 32,
    payer_tag="p",
    path="/v1/chat/completions",
    stream=True,
    request_digest="ab" * 32,
    price=PRICE,
    prompt_max=100,
    completion_max=50,
    images_max=0,
    audio_ms_max=0,
    charge_max=15,
    issued_ms=1_000,
    deadline_ms=61_000,
    seed=7,
    nonce="n",
    decision_digest="",
)
RECEIPT = Receipt(
    order_id=ORDER.order_id,
    order_digest=signed_digest(sign("order", ORDER, GATEWAY)),
    chute=ORDER.chute,
    instance=ORDER.instance,
    miner=ORDER.miner,
    gateway=ORDER.gateway,
    payer_tag=ORDER.payer_tag,
    outcome=Outcome.COMPLETE,
    units=TEN,
    charge_nano=charge_for(ORDER, TEN),
    response_digest="ef" * 32,
    response_bytes=6,
    events=11,
    accept_ms=1_001,
    first_ms=1_010,
    last_ms=1_100,
    seed=7,
    token_ids_digest="",
    logprobs_digest="",
)
CHECKPOINT = Checkpoint(
    order_id=ORDER.order_id,
    order_digest=RECEIPT.order_digest,
    events=4,
    body_bytes=3,
    units=FOUR,
    digest="12" * 32,
)


DECISION = Decision(
    policy="v1",
    seed=7,
    present=2,
    considered=(
        Considered(instance="m-1", reason="", merit=100, cached_ppm=250_000),
        Considered(instance="m-2", reason="no_room", merit=0, cached_ppm=0),
    ),
    choice="m-1",
)


def run_judge(given: Any) -> Any:
    record = parse_record(given["record"])
    found = judge(record, refusal_free_ms=given["refusal_free_ms"], verify=verify)
    told = to_plain(found)
    del told["order"]
    return told


def run_record_digest(given: Any) -> str:
    return record_digest(parse_record(given))


def run_decision_digest(given: Any) -> str:
    return decision_digest(None if given is None else from_plain(Decision, given))


def said(key: Ed25519Key = MINER, **changes: Any) -> Signed:
    """A receipt; its charge follows its outcome and units unless it is given."""
    receipt = replace(RECEIPT, **changes)
    if receipt.outcome in {Outcome.MINER_FAILED, Outcome.REFUSED}:
        receipt = replace(receipt, units=NO_UNITS)
    if "charge_nano" not in changes:
        billed = receipt.outcome in {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
        nano = charge_for(ORDER, receipt.units) if billed else 0
        receipt = replace(receipt, charge_nano=nano)
    return sign("receipt", receipt, key)


def marked(key: Ed25519Key = MINER, **changes: Any) -> Signed:
    return sign("checkpoint", replace(CHECKPOINT, **changes), key)


def case(receipt: Signed | None, *, checkpoint: Signed | None = None, **seen: Any) -> Any:
    """A record as plain values. `seen` goes to the countersignature, or to the order as `order`."""
    order = replace(ORDER, **seen.pop("order", {}))
    decision = seen.pop("decision", None)
    countersign = Countersign(
        order_id=ORDER.order_id,
        order_digest=signed_digest(sign("order", order, GATEWAY)),
        receipt_digest="" if receipt is None else signed_digest(receipt),
        outcome=Outcome.MINER_FAILED if receipt is None else Outcome.COMPLETE,
        charge_nano=0 if receipt is None else receipt.body["charge_nano"],
        response_bytes=6,
        events=11,
        ttft_us=9_000,
        total_us=100_000,
        match=receipt is not None,
    )
    record = Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=checkpoint,
        countersign=sign("countersign", replace(countersign, **seen), GATEWAY),
        decision=decision,
    )
    return {"record": to_plain(record), "refusal_free_ms": 100}


def part(given: Any, **parts: Any) -> Any:
    return {**given, "record": {**given["record"], **parts}}


def why(decision: Decision | None = None, **seen: Any) -> Any:
    """A record whose order names DECISION, with this decision in it."""
    order = replace(ORDER, decision_digest=decision_digest(DECISION))
    receipt = said(order_digest=signed_digest(sign("order", order, GATEWAY)))
    names = {"decision_digest": order.decision_digest}
    return case(receipt, order=names, decision=decision, **seen)


def sealed(given: Any) -> Any:
    """The same record under seals: order and countersignature in one, the receipt in its own."""
    record = given["record"]

    def under(key: Ed25519Key, *names: str) -> dict[str, Any]:
        words = [parse_signed(record[name]) for name in names]
        digests = [bytes.fromhex(signed_digest(word)) for word in words]
        texts = seal_signatures(digests, key.sign(seal_digest(seal_root(digests), len(digests))))
        return {
            name: {**record[name], "signature": text}
            for name, text in zip(names, texts, strict=True)
        }

    return part(given, **under(GATEWAY, "order", "countersign"), **under(MINER, "receipt"))


CANCELLED, REFUSED = Outcome.CLIENT_CANCELLED, Outcome.REFUSED
HONEST = case(said())
BORROWED = sealed(HONEST)["record"]["countersign"]["signature"]
FOUR_NANO = charge_for(ORDER, FOUR)

ROWS = {
    "complete": HONEST,
    "complete_without_units_is_not_counted": case(said(units=NO_UNITS)),
    "complete_at_the_ceiling": case(said(units=Units(100, 0, 50, 0, 0))),
    "complete_with_a_decision": why(DECISION),
    "complete_under_seals": sealed(HONEST),
    "claimed_without_its_decision": part(why(), countersign=None),
    "cancelled_with_a_matching_receipt": case(
        said(outcome=CANCELLED, units=FOUR), outcome=CANCELLED
    ),
    "cancelled_after_all_of_it": case(said(), outcome=CANCELLED),
    "cancelled_with_a_checkpoint": case(
        None, checkpoint=marked(), outcome=CANCELLED, charge_nano=FOUR_NANO
    ),
    "cancelled_with_a_receipt_of_other_bytes_and_a_checkpoint": case(
        said(), checkpoint=marked(), outcome=CANCELLED, charge_nano=FOUR_NANO, match=False
    ),
    "cancelled_with_nothing_proven": case(None, outcome=CANCELLED),
    "miner_failed": case(None),
    "miner_failed_with_a_receipt_of_other_bytes": case(
        said(), outcome=Outcome.MINER_FAILED, charge_nano=0, match=False
    ),
    "gateway_failed": part(HONEST, countersign=None),
    "refused_in_time": case(said(outcome=REFUSED), outcome=REFUSED),
    "refused_late": case(said(outcome=REFUSED), outcome=REFUSED, total_us=100_001),
}
LIES = {
    "complete_without_a_receipt": case(None, outcome=Outcome.COMPLETE),
    "complete_without_a_match": case(said(), match=False),
    "complete_of_a_failed_receipt": case(said(outcome=Outcome.MINER_FAILED)),
    "cancelled_for_more_than_was_proven": case(
        None, checkpoint=marked(), outcome=CANCELLED, charge_nano=FOUR_NANO + 1
    ),
    "refused_without_a_refusal": case(said(), outcome=REFUSED, charge_nano=0),
    "a_gateway_that_signs_its_own_failure": case(said(), outcome=Outcome.GATEWAY_FAILED),
    "nobody_says_anything": part(HONEST, receipt=None, countersign=None),
    "charge_above_the_receipt": case(said(), charge_nano=RECEIPT.charge_nano + 1),
    "receipt_that_charges_more_than_its_units": case(said(charge_nano=RECEIPT.charge_nano + 1)),
    "receipt_of_another_order": case(said(order_digest="00" * 32)),
    "receipt_by_another_key": case(said(GATEWAY)),
    "receipt_of_more_units_than_ordered": case(said(units=Units(101, 0, 1, 0, 0))),
    "decision_left_out": why(),
    "decision_that_the_order_does_not_name": part(HONEST, decision=to_plain(DECISION)),
    "another_decision_than_the_order_names": why(replace(DECISION, seed=8)),
    "seal_of_another_word": part(
        sealed(HONEST), order={**HONEST["record"]["order"], "signature": BORROWED}
    ),
    "receipt_of_images": case(said(units=Units(1, 0, 1, 1, 0))),
    "receipt_of_less_than_nothing": case(said(response_bytes=-1), response_bytes=6),
    "receipt_whose_times_run_backwards": case(said(first_ms=0)),
    "checkpoint_of_another_order": case(said(), checkpoint=marked(order_digest="00" * 32)),
    "checkpoint_by_another_key": case(said(), checkpoint=marked(GATEWAY)),
    "countersignature_of_another_receipt": case(said(), receipt_digest="00" * 32),
    "countersignature_of_other_bytes": case(said(), response_bytes=7),
    "countersignature_by_the_miner": part(
        HONEST, countersign={**HONEST["record"]["countersign"], "signer": MINER.identity}
    ),
    "countersigned_wait_of_ages": case(said(), total_us=WAIT_US_MAX + 1),
    "order_with_a_negative_ceiling": case(None, order={"charge_max": -1}),
    "order_changed_after_signing": part(
        HONEST,
        order={**HONEST["record"]["order"], "body": {**to_plain(ORDER), "charge_max": 16}},
    ),
    "a_receipt_as_a_checkpoint": part(HONEST, checkpoint=HONEST["record"]["receipt"]),
}

FUNCTIONS = {
    "decision_digest": (run_decision_digest, {"one": to_plain(DECISION), "none": None}),
    "judge": (run_judge, {**ROWS, **{f"refuses_{name}": one for name, one in LIES.items()}}),
    "record_digest": (
        run_record_digest,
        {"complete": HONEST["record"], "no_record": {"order": None}},
    ),
}
