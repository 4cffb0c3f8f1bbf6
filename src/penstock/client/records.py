"""The record behind an answer: the signatures under words that came without, and what was asked.

Miner and gateway sign in batches, a moment after the answer. The record, fetched by the order's id,
then shows the same words under signatures; an answer is only called signed once that was seen.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from penstock.client.answers import Signatures, check_signatures
from penstock.client.errors import BadAnswer
from penstock.spec.errors import SpecError
from penstock.spec.keys import Verify
from penstock.spec.messages import Order
from penstock.spec.receipts import Outcome, Record, judge, parse_record

TRANSLATED_PATHS = frozenset({"/v1/messages", "/v1/responses"})
"""What a miner is never asked as it is: the gateway makes a chat of it."""

SENT_MAX = 1024
"""Requests that are remembered for a later `prove`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was sent for one order."""

    path: str
    request_digest: str

    @classmethod
    def of(cls, path: str, body: bytes) -> "Asked":
        """Of these bytes, as they went out."""
        return cls(path, hashlib.sha256(body).hexdigest())


@dataclass(slots=True)
class Sent:
    """The latest requests by order id, so that a receipt can be held against what was asked."""

    sent_max: int = SENT_MAX
    _asked: OrderedDict[str, Asked] = field(default_factory=OrderedDict)

    def add(self, order_id: str, asked: Asked) -> None:
        """Remember it; the oldest is forgotten beyond `sent_max`."""
        self._asked[order_id] = asked
        if len(self._asked) > self.sent_max:
            self._asked.popitem(last=False)

    def check(self, order: Order) -> None:
        """The order is for what was asked under its id, if that is still known. Raises BadAnswer."""
        asked = self._asked.get(order.order_id)
        if asked is not None:
            check_asked(order, asked)


def check_asked(order: Order, asked: Asked) -> None:
    """The order's request is the one that was sent, byte for byte. Raises BadAnswer.

    Where the gateway translates (Anthropic's messages as a chat, say) the request of the order is in
    the gateway's own bytes and cannot be compared.
    """
    if is_translated(order, asked):
        return
    if (order.path, order.request_digest) != (asked.path, asked.request_digest):
        raise BadAnswer("the order is for another request than was sent")


def is_translated(order: Order, asked: Asked) -> bool:
    """Whether the gateway had to speak to the miner in other words than it was spoken to."""
    return asked.path in TRANSLATED_PATHS and order.path != asked.path


def check_record(
    document: Any, told: Signatures, *, order_id: str, asked: Asked, digest: str, verify: Verify
) -> Signatures:
    """The signatures in a receipt document, for words that were told without. Raises BadAnswer.

    `digest` is the hex SHA-256 of the answer's bytes. A miner that failed to sign in time is closed
    as failed, at no charge: then the answer stays without a receipt, whatever was told before.
    """
    record = _record(document)
    try:
        # 0: how long a refusal may take matters to the score alone.
        order = judge(record, refusal_free_ms=0, verify=verify).order
    except SpecError as error:
        raise BadAnswer(str(error)) from error
    if order.order_id != order_id:
        raise BadAnswer("the receipt of another order")
    check_asked(order, asked)
    bytes_digest = "" if is_translated(order, asked) else digest
    signed = check_signatures(
        record.receipt, record.countersign, digest=bytes_digest, verify=verify
    )
    seen = signed.countersign
    if seen is not None and (seen.outcome, seen.charge_nano) == (Outcome.MINER_FAILED, 0):
        return signed
    if told.receipt not in {None, signed.receipt}:
        raise BadAnswer("another receipt was signed than was told")
    if told.countersign not in {None, signed.countersign}:
        raise BadAnswer("another countersignature was signed than was told")
    return signed


def _record(document: Any) -> Record:
    if not isinstance(document, dict) or "record" not in document:
        raise BadAnswer("not a receipt document: it has no record")
    try:
        return parse_record(document["record"])
    except SpecError as error:
        raise BadAnswer(str(error)) from error
