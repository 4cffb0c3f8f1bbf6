"""One receipt per order: at once the proof of the bytes, the bill, the scoring input and the exhibit.

The miner signs the receipt; the gateway countersigns what it saw; together with the order they are
one record of the log. `judge` is the whole rule of who pays: a closed set of outcomes.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, assert_never

from penstock.spec.canon import digest, from_plain, to_plain
from penstock.spec.errors import BadMessage, SpecError
from penstock.spec.keys import (
    Signed,
    Verify,
    check_identity,
    open_and_digest,
    open_signed,
    parse_signed,
)
from penstock.spec.messages import Order, check_ceilings
from penstock.spec.pricing import cost
from penstock.spec.routing import DECISION_SHOWN_MAX, Decision
from penstock.spec.stream import Checkpoint, check_checkpoint, check_units
from penstock.spec.units import NO_UNITS, Units


class Outcome(Enum):
    """How an order ended. Who pays follows from it alone."""

    COMPLETE = "complete"
    CLIENT_CANCELLED = "client_cancelled"
    MINER_FAILED = "miner_failed"
    GATEWAY_FAILED = "gateway_failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The miner's account of one served order.

    `response_digest` is the hex SHA-256 of the `response_bytes` sent before the receipt itself.
    Times are Unix ms by the miner's clock. `token_ids_digest` and `logprobs_digest` are "" when the
    engine does not tell.
    """

    order_id: str
    order_digest: str
    chute: str
    instance: str
    miner: str
    gateway: str
    payer_tag: str
    outcome: Outcome
    units: Units
    charge_nano: int
    response_digest: str
    response_bytes: int
    events: int
    accept_ms: int
    first_ms: int
    last_ms: int
    seed: int
    token_ids_digest: str
    logprobs_digest: str


@dataclass(frozen=True, slots=True)
class Countersign:
    """What the gateway saw of the same order, by its own clock and count.

    `receipt_digest` is "" when no valid receipt came. `match` says that the bytes the gateway passed
    on have the digest the receipt names. `charge_nano` is what the payer is charged.
    """

    order_id: str
    order_digest: str
    receipt_digest: str
    outcome: Outcome
    charge_nano: int
    response_bytes: int
    events: int
    ttft_us: int
    total_us: int
    match: bool


WAIT_US_MAX = 10**12
"""Eleven days: no answer takes longer, and nanoseconds per unit stay below 2**53."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the log keeps of one order: the order and every signed word about its end.

    `decision` is why the order went to its instance; the order names its digest. It comes with the
    gateway's countersignature and never without.
    """

    order: Signed
    receipt: Signed | None
    checkpoint: Signed | None
    countersign: Signed | None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Who pays and who earns for one record.

    `charge_nano` is taken from the payer. `earned_nano` is split by the fee rule; the operator adds
    what the payer does not pay (`gateway_failed`). `counts` is false for an outcome that says nothing
    about the miner's availability.
    """

    order: Order
    outcome: Outcome
    units: Units
    charge_nano: int
    earned_nano: int
    ttft_us: int
    total_us: int
    counts: bool


def charge_for(order: Order, units: Units) -> int:
    """The charge of these units under the order's own price; never above its ceiling."""
    return min(cost(order.price, units), order.charge_max)


def check_receipt(signed: Signed, order: Order, *, order_digest: str, verify: Verify) -> Receipt:
    """A receipt by the order's miner about exactly this order, billed by the order's price.

    Raises a SpecError: of another order, impossible units, or a charge that is not the price.
    """
    receipt, _ = _open_receipt(signed, order, order_digest=order_digest, verify=verify)
    return receipt


def _open_receipt(
    signed: Signed, order: Order, *, order_digest: str, verify: Verify
) -> tuple[Receipt, str]:
    """The checked receipt and its digest."""
    receipt, covered = open_and_digest(Receipt, signed, kind="receipt", verify=verify)
    if signed.signer != order.miner:
        raise BadMessage(kind="receipt", reason="of another order or miner")
    check_account(receipt, order, order_digest=order_digest)
    return receipt, covered


def check_account(receipt: Receipt, order: Order, *, order_digest: str) -> None:
    """What a receipt says, whoever vouches for it: about exactly this order, at its price.

    The part of `check_receipt` that needs no signature: within a session a receipt is believed by its
    MAC first and signed a moment later (`seals`). Raises a SpecError.
    """
    if receipt.order_digest != order_digest:
        raise BadMessage(kind="receipt", reason="of another order or miner")
    said = (receipt.order_id, receipt.chute, receipt.instance, receipt.miner)
    if said != (order.order_id, order.chute, order.instance, order.miner):
        raise BadMessage(kind="receipt", reason="names another order, chute, instance or miner")
    if (receipt.gateway, receipt.payer_tag) != (order.gateway, order.payer_tag):
        raise BadMessage(kind="receipt", reason="names another gateway or payer")
    check_units(receipt.units, order)
    if min(receipt.response_bytes, receipt.events) < 0:
        raise BadMessage(kind="receipt", reason="a count is negative")
    if receipt.outcome is Outcome.COMPLETE or receipt.outcome is Outcome.CLIENT_CANCELLED:
        expected = charge_for(order, receipt.units)
    else:
        expected = 0
    if receipt.charge_nano != expected:
        raise BadMessage(kind="receipt", reason="the charge is not the price of the units")
    if not receipt.accept_ms <= receipt.first_ms <= receipt.last_ms:
        raise BadMessage(kind="receipt", reason="times run backwards")


def check_countersign(
    signed: Signed, order: Order, *, order_digest: str, verify: Verify
) -> Countersign:
    """A countersignature by the order's gateway about exactly this order. Raises a SpecError."""
    seen = open_signed(Countersign, signed, kind="countersign", verify=verify)
    if signed.signer != order.gateway or seen.order_digest != order_digest:
        raise BadMessage(kind="countersign", reason="of another order or gateway")
    if seen.order_id != order.order_id:
        raise BadMessage(kind="countersign", reason="names another order")
    if min(seen.response_bytes, seen.events, seen.ttft_us, seen.total_us) < 0:
        raise BadMessage(kind="countersign", reason="a count is negative")
    if max(seen.ttft_us, seen.total_us) > WAIT_US_MAX:
        raise BadMessage(kind="countersign", reason="a time is too long to be true")
    return seen


def judge(record: Record, *, refusal_free_ms: int, verify: Verify) -> Judgement:
    """The rule of who pays, from the signed words alone. Raises a SpecError when they do not hold.

    | outcome          | payer pays                  | miner earns              | availability      |
    |------------------|-----------------------------|--------------------------|-------------------|
    | complete         | the receipt's charge        | the same                 | success, if units |
    | client_cancelled | the prefix that was proven  | the same                 | not counted       |
    | miner_failed     | nothing                     | nothing                  | failure           |
    | gateway_failed   | nothing                     | its receipt, by operator | not counted       |
    | refused          | nothing                     | nothing                  | failure if late   |

    Edges: no countersignature at all means the gateway failed; a complete outcome needs a receipt
    whose digest matched; a cancelled one falls back to the last signed checkpoint, then to nothing.
    A complete answer without any units (an error that the engine blames on the request) is no
    success either: it is not counted, or a miner could turn everything away and count as available.
    """
    order, order_digest = open_and_digest(Order, record.order, kind="order", verify=verify)
    if record.order.signer != order.gateway:
        raise BadMessage(kind="order", reason="the signer is not the gateway it names")
    # Whoever is named here is scored: a name that no key has would spoil every honest report.
    check_identity(order.miner)
    check_ceilings(order)
    # The decision is the gateway's word: a miner that claims alone cannot bring it.
    decided = "" if record.countersign is None else order.decision_digest
    if decision_digest(record.decision) != decided:
        raise BadMessage(kind="record", reason="not the decision that the order names")
    if record.decision is not None and len(record.decision.considered) > DECISION_SHOWN_MAX:
        raise BadMessage(kind="record", reason="a decision that shows too many instances")
    receipt, named = None, ""
    if record.receipt is not None:
        receipt, named = _open_receipt(
            record.receipt, order, order_digest=order_digest, verify=verify
        )
    checkpoint = None
    if record.checkpoint is not None:
        checkpoint = check_checkpoint(
            record.checkpoint, order, order_digest=order_digest, verify=verify
        )
    if record.countersign is None:
        return _judge_unseen(order, receipt)
    seen = check_countersign(record.countersign, order, order_digest=order_digest, verify=verify)
    if seen.receipt_digest != named:
        raise BadMessage(kind="countersign", reason="of another receipt")
    if seen.match and (receipt is None or receipt.response_bytes != seen.response_bytes):
        raise BadMessage(kind="countersign", reason="a match of no receipt, or of other bytes")
    units, charge, counts = _judge_seen(
        order, seen, receipt=receipt, checkpoint=checkpoint, refusal_free_ms=refusal_free_ms
    )
    if seen.charge_nano != charge:
        raise BadMessage(kind="countersign", reason="the charge is not what the outcome allows")
    return Judgement(
        order=order,
        outcome=seen.outcome,
        units=units,
        charge_nano=charge,
        earned_nano=charge,
        ttft_us=seen.ttft_us,
        total_us=seen.total_us,
        counts=counts,
    )


def _judge_unseen(order: Order, receipt: Receipt | None) -> Judgement:
    """The gateway never spoke: the payer pays nothing, the operator pays what the miner proved."""
    if receipt is None:
        raise BadMessage(kind="record", reason="neither receipt nor countersignature")
    return Judgement(
        order=order,
        outcome=Outcome.GATEWAY_FAILED,
        units=receipt.units,
        charge_nano=0,
        earned_nano=receipt.charge_nano,
        ttft_us=0,
        total_us=0,
        counts=False,
    )


def _judge_seen(
    order: Order,
    seen: Countersign,
    *,
    receipt: Receipt | None,
    checkpoint: Checkpoint | None,
    refusal_free_ms: int,
) -> tuple[Units, int, bool]:
    """(units, charge, whether it counts for availability) of a countersigned outcome."""
    match seen.outcome:
        case Outcome.COMPLETE:
            if receipt is None or receipt.outcome is not Outcome.COMPLETE or not seen.match:
                raise BadMessage(kind="countersign", reason="complete without a matching receipt")
            return receipt.units, receipt.charge_nano, receipt.units != NO_UNITS
        case Outcome.CLIENT_CANCELLED:
            units = cancelled_units(receipt if seen.match else None, checkpoint)
            return units, 0 if units == NO_UNITS else charge_for(order, units), False
        case Outcome.MINER_FAILED:
            return NO_UNITS, 0, True
        case Outcome.REFUSED:
            if receipt is None or receipt.outcome is not Outcome.REFUSED:
                raise BadMessage(kind="countersign", reason="refused without a signed refusal")
            return NO_UNITS, 0, seen.total_us > refusal_free_ms * 1000
        case Outcome.GATEWAY_FAILED:
            raise BadMessage(kind="countersign", reason="a gateway cannot countersign its failure")
        case _:
            assert_never(seen.outcome)


def cancelled_units(receipt: Receipt | None, checkpoint: Checkpoint | None) -> Units:
    """What a cancelled stream proved: a receipt that matches, else the last checkpoint."""
    if receipt is not None and receipt.outcome in {Outcome.CLIENT_CANCELLED, Outcome.COMPLETE}:
        return receipt.units
    return NO_UNITS if checkpoint is None else checkpoint.units


def decision_digest(decision: Decision | None) -> str:
    """What an order says of its routing decision: the hex digest, "" for none."""
    return "" if decision is None else digest("decision", to_plain(decision)).hex()


def record_id(record: Record) -> str:
    """The order id: one record per order, whoever delivers it."""
    value = record.order.body.get("order_id")
    if not isinstance(value, str):
        raise BadMessage(kind="record", reason="the order has no id")
    return value


def record_digest(record: Record) -> str:
    """Hex digest of the whole record."""
    return digest("record", to_plain(record)).hex()


def parse_record(value: Any) -> Record:
    """A Record from plain values. Raises NotCanonical or BadMessage."""
    if not isinstance(value, dict) or set(value) != {
        "order",
        "receipt",
        "checkpoint",
        "countersign",
        "decision",
    }:
        raise BadMessage(kind="record", reason="not a record")

    def part(name: str) -> Signed | None:
        return None if value[name] is None else parse_signed(value[name])

    decision = value["decision"]
    return Record(
        order=parse_signed(value["order"]),
        receipt=part("receipt"),
        checkpoint=part("checkpoint"),
        countersign=part("countersign"),
        decision=None if decision is None else from_plain(Decision, decision),
    )


def is_valid(record: Record, *, refusal_free_ms: int, verify: Verify) -> bool:
    """Whether `judge` accepts the record."""
    try:
        judge(record, refusal_free_ms=refusal_free_ms, verify=verify)
    except SpecError:
        return False
    return True
