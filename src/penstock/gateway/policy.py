"""How an order ended, decided from what was seen: the gateway's side of the rule in spec/receipts.py.

Pure functions. What is decided here is signed, so it must be what `judge` allows.
"""

from dataclasses import dataclass
from enum import Enum

import msgspec

from penstock.gateway.orders import Placed
from penstock.gateway.tally import Marked, Tally
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, Verify, parse_signed
from penstock.spec.receipts import (
    Outcome,
    Receipt,
    cancelled_units,
    charge_for,
    check_receipt,
)
from penstock.spec.stream import Checkpoint, check_checkpoint, completion_units_max
from penstock.spec.units import NO_UNITS

SERVED = frozenset({Outcome.COMPLETE, Outcome.CLIENT_CANCELLED})
"""A receipt of these says by itself what is to be paid."""
WORD_BYTES_MAX = 16_384
"""A signed message of a miner is about 1 KiB; a record must always fit the bus."""


class Fault(Enum):
    """Why a receipt was not believed, or why there is none."""

    NONE = "none"
    MISSING = "missing"
    BAD_SIGNATURE = "bad_receipt"
    BAD_DIGEST = "bad_digest"
    TOO_MANY_UNITS = "too_many_units"
    UNITS_FOR_ERROR = "units_for_error"
    NOT_COMPLETE = "not_complete"


@dataclass(frozen=True, slots=True)
class Proven:
    """The miner's words that hold. `receipt` is there only if it may stand in a record."""

    receipt: Receipt | None
    signed_receipt: Signed | None
    checkpoint: Checkpoint | None
    signed_checkpoint: Signed | None
    is_match: bool
    fault: Fault


@dataclass(frozen=True, slots=True)
class End:
    """How an order ended and what it costs the payer."""

    outcome: Outcome
    charge_nano: int
    fault: Fault


def parse_word(payload: bytes) -> Signed | None:
    """A Signed from JSON, or None."""
    if len(payload) > WORD_BYTES_MAX:
        return None
    try:
        return parse_signed(msgspec.json.decode(payload))
    except (msgspec.DecodeError, SpecError, UnicodeDecodeError, RecursionError):
        return None


def prove(placed: Placed, tally: Tally, *, is_error: bool, verify: Verify) -> Proven:
    """Check the receipt, or else the last checkpoint, against the bytes that were seen.

    Behind a matching receipt of served units a checkpoint decides nothing (`cancelled_units`), so
    it is neither checked nor put on record. `is_error`: an error status, which may bill no units.
    """
    receipt, signed, fault = _prove_receipt(placed, tally, is_error=is_error, verify=verify)
    is_match = receipt is not None and fault is Fault.NONE
    is_enough = is_match and receipt is not None and receipt.outcome in SERVED
    marked = None if is_enough else tally.checkpoint
    checkpoint, signed_checkpoint = _prove_checkpoint(placed, marked, verify)
    return Proven(
        receipt=receipt,
        signed_receipt=signed,
        checkpoint=checkpoint,
        signed_checkpoint=signed_checkpoint,
        is_match=is_match,
        fault=fault,
    )


def end_of(placed: Placed, proven: Proven, *, is_cancelled: bool) -> End:
    """The outcome and charge, by the same rule as `judge`.

    A client that left pays for the proven prefix; one that stayed pays for a complete answer whose
    receipt matches, and for nothing else.
    """
    receipt = proven.receipt
    if is_cancelled:
        believed = receipt if proven.is_match else None
        units = cancelled_units(believed, proven.checkpoint)
        charge = 0 if units == NO_UNITS else charge_for(placed.order, units)
        return End(Outcome.CLIENT_CANCELLED, charge, proven.fault)
    if receipt is None or not proven.is_match:
        return End(Outcome.MINER_FAILED, 0, proven.fault)
    if receipt.outcome is Outcome.REFUSED:
        return End(Outcome.REFUSED, 0, Fault.NONE)
    if receipt.outcome is not Outcome.COMPLETE:
        return End(Outcome.MINER_FAILED, 0, Fault.NOT_COMPLETE)
    return End(Outcome.COMPLETE, receipt.charge_nano, Fault.NONE)


def _prove_receipt(
    placed: Placed, tally: Tally, *, is_error: bool, verify: Verify
) -> tuple[Receipt | None, Signed | None, Fault]:
    """A receipt that holds may stand in the record even if it does not match: it is evidence."""
    if tally.receipt is None:
        return None, None, Fault.MISSING
    signed = parse_word(tally.receipt)
    if signed is None:
        return None, None, Fault.BAD_SIGNATURE
    try:
        receipt = check_receipt(signed, placed.order, order_digest=placed.digest, verify=verify)
    except SpecError:
        return None, None, Fault.BAD_SIGNATURE
    seen = (tally.digest, tally.body_bytes)
    fault = Fault.NONE
    if (receipt.response_digest, receipt.response_bytes) != seen:
        fault = Fault.BAD_DIGEST
    elif receipt.units.completion > completion_units_max(
        events=tally.events, content_bytes=tally.content_bytes
    ):
        fault = Fault.TOO_MANY_UNITS
    elif is_error and receipt.units != NO_UNITS:
        fault = Fault.UNITS_FOR_ERROR
    return receipt, signed, fault


def _prove_checkpoint(
    placed: Placed, marked: Marked | None, verify: Verify
) -> tuple[Checkpoint | None, Signed | None]:
    """The last checkpoint, if it is signed, of this order, and of the bytes that came before it."""
    signed = None if marked is None else parse_word(marked.payload)
    if marked is None or signed is None:
        return None, None
    try:
        checkpoint = check_checkpoint(
            signed, placed.order, order_digest=placed.digest, verify=verify
        )
    except SpecError:
        return None, None
    most = completion_units_max(events=marked.events, content_bytes=marked.content_bytes)
    seen = (checkpoint.digest, checkpoint.body_bytes)
    if seen != (marked.digest, marked.body_bytes) or checkpoint.units.completion > most:
        return None, None
    return checkpoint, signed
