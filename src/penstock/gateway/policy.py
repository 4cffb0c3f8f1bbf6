"""How an order ended, decided from what was seen: the gateway's side of the rule in spec/receipts.py.

Pure functions. What is decided here is signed, so it must be what `judge` allows. A receipt is
vouched for by a MAC within a session, by a signature without one; all else about it is the same.
"""

from enum import Enum

import msgspec

from penstock.gateway.orders import Placed
from penstock.gateway.sessions import Session
from penstock.gateway.tally import WORD_BYTES_MAX, Marked, Tally
from penstock.kit.handshake import is_same, split_vouched
from penstock.kit.spell import read_receipt, spell
from penstock.spec.canon import digest_spelled
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, Verify, parse_signed
from penstock.spec.pricing import cost
from penstock.spec.receipts import (
    Outcome,
    Receipt,
    cancelled_units,
    charge_for,
    check_account,
    check_receipt,
)
from penstock.spec.stream import Checkpoint, check_checkpoint, completion_units_max
from penstock.spec.units import NO_UNITS

SERVED = (Outcome.COMPLETE, Outcome.CLIENT_CANCELLED)
"""A receipt of these says by itself what is to be paid."""

_receipt = msgspec.json.Decoder(Receipt).decode


class Fault(Enum):
    """Why a receipt was not believed, or why there is none."""

    NONE = "none"
    MISSING = "missing"
    BAD_SIGNATURE = "bad_receipt"
    BAD_DIGEST = "bad_digest"
    TOO_MANY_UNITS = "too_many_units"
    UNITS_FOR_ERROR = "units_for_error"
    NOT_COMPLETE = "not_complete"


class Told(msgspec.Struct):
    """A receipt that holds: `body` is its canonical JSON, `covered` the digest a signature covers.
    `signature` is "" for one that is only vouched for as yet.
    """

    receipt: Receipt
    body: bytes
    covered: bytes
    signature: str


class Proven(msgspec.Struct):
    """The miner's words that hold. `told` is there only if it may stand in a record."""

    told: Told | None
    checkpoint: Checkpoint | None
    signed_checkpoint: Signed | None
    is_match: bool
    fault: Fault

    @property
    def receipt(self) -> Receipt | None:
        """What the miner says of the order."""
        return None if self.told is None else self.told.receipt


class End(msgspec.Struct):
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
    told = _told(placed, tally.receipt, verify)
    fault = _fault(told, tally, is_error=is_error)
    is_match = told is not None and fault is Fault.NONE
    marked = tally.checkpoint
    if marked is None or (is_match and told is not None and told.receipt.outcome in SERVED):
        return Proven(told, None, None, is_match, fault)
    checkpoint, signed_checkpoint = _prove_checkpoint(placed, marked, verify)
    return Proven(told, checkpoint, signed_checkpoint, is_match, fault)


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


def _told(placed: Placed, word: bytes | None, verify: Verify) -> Told | None:
    """The receipt in a miner's word, vouched for as the order was; None if it does not hold."""
    if word is None or len(word) > WORD_BYTES_MAX:
        return None
    try:
        if placed.session is not None:
            return _vouched(placed, placed.session, word)
        signed = parse_word(word)
        if signed is None:
            return None
        receipt = check_receipt(signed, placed.order, order_digest=placed.digest, verify=verify)
    except SpecError:
        return None
    body = spell(receipt)
    return Told(receipt, body, digest_spelled("receipt", body), signed.signature)


def _vouched(placed: Placed, session: Session, word: bytes) -> Told | None:
    """A receipt under a session's key. Raises a SpecError for one that says what it may not."""
    parts = split_vouched(word)
    if parts is None:
        return None
    body, mac = parts
    covered = digest_spelled("receipt", body)
    if not is_same(mac, session.macs.receipt(covered)):
        return None
    receipt = _read_quickly(placed, body)
    if receipt is None:
        receipt = read_receipt(body)
        check_account(receipt, placed.order, order_digest=placed.digest)
    return Told(receipt, body, covered, "")


def _read_quickly(placed: Placed, body: bytes) -> Receipt | None:
    """What `read_receipt` and `check_account` accept, and nothing else; None for what they must look
    at. The bytes are compared with those that the order makes us expect: so they are canonical, and
    name the order, its offer and its payer.
    """
    try:
        receipt = _receipt(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    units, bounds, price = receipt.units, placed.bounds, placed.form.price
    if (
        not 0 <= units.cached <= units.prompt <= bounds.prompt_max
        or not 0 <= units.completion <= bounds.completion_max
        or not 0 <= units.images <= bounds.images_max
        or not 0 <= units.audio_ms <= bounds.audio_ms_max
    ):
        return None
    due_nano = 0
    if receipt.outcome in SERVED:
        due_nano = min(cost(price, units), bounds.charge_max(price))
    if receipt.charge_nano != due_nano:
        return None
    of = placed.digest.encode(), placed.order_id.encode(), placed.payer_tag.encode()
    return receipt if placed.form.is_receipt(body, receipt, of) else None


def _fault(told: Told | None, tally: Tally, *, is_error: bool) -> Fault:
    """What is wrong with a receipt that holds: it may stand in the record, as evidence."""
    if told is None:
        return Fault.MISSING if tally.receipt is None else Fault.BAD_SIGNATURE
    receipt = told.receipt
    if receipt.response_bytes != tally.body_bytes or receipt.response_digest != tally.digest:
        return Fault.BAD_DIGEST
    if receipt.units.completion > completion_units_max(
        events=tally.events, content_bytes=tally.content_bytes
    ):
        return Fault.TOO_MANY_UNITS
    if is_error and receipt.units != NO_UNITS:
        return Fault.UNITS_FOR_ERROR
    return Fault.NONE


def _prove_checkpoint(
    placed: Placed, marked: Marked, verify: Verify
) -> tuple[Checkpoint | None, Signed | None]:
    """The last checkpoint, if it is signed, of this order, and of the bytes that came before it."""
    signed = parse_word(marked.payload)
    if signed is None:
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
