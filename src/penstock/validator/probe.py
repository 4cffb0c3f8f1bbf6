"""A probe: one request through the gateway, its answer checked as a client checks it, and recounted.

A probe that is not answered says nothing about a miner here: the record that the gateway logs does.
What a probe alone can show is a receipt for more than the answer holds.
"""

import asyncio
import hashlib
from base64 import b64encode
from dataclasses import dataclass, field
from enum import Enum

from penstock.client.answers import Signatures, StreamCheck, check_whole, decode
from penstock.client.errors import BadAnswer
from penstock.client.records import Asked, check_record
from penstock.kit.errors import EventTooLarge, WireError
from penstock.kit.ports import Verify
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.kit.wire.client import HttpClient, StreamReply
from penstock.spec.receipts import Outcome, Receipt
from penstock.spec.stream import CHECKPOINT_COMMENT
from penstock.spec.verdicts import (
    COUNTED_PATHS,
    TRANSCRIPT_BYTES_MAX,
    Recount,
    is_lie,
    recount,
)
from penstock.validator.policy import Probe

DOCUMENT_BYTES_MAX = 1 << 18
PAID = frozenset({Outcome.COMPLETE, Outcome.CLIENT_CANCELLED})


class Found(Enum):
    """How a probe ended: a closed set, counted by kind."""

    GOOD = "good"
    LIED = "lied"
    UNSIGNED = "unsigned"
    """An answer without receipt or countersignature."""
    BAD = "bad"
    """Signed over other bytes, or by the wrong key."""
    FAILED = "failed"
    """No answer, or an answer that broke off."""
    REFUSED = "refused"
    """No room, or too many requests."""
    UNPAID = "unpaid"
    """The validator's own account is empty."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe showed. `transcript` (base64) is there when the receipt lied."""

    found: Found
    order_id: str = ""
    miner: str = ""
    transcript: str = ""
    reason: str = ""


@dataclass(slots=True)
class Asking:
    """How to ask. `api_key` is an account of the validator's own, like any user's."""

    http: HttpClient
    gateway_url: str
    verify: Verify
    deadline_ms: int
    answer_bytes_max: int
    api_key: str = field(repr=False)

    async def ask(self, probe: Probe) -> Finding:
        """Ask, read, check and recount. Never raises but for cancellation."""
        try:
            async with asyncio.timeout(self.deadline_ms / 1000):
                return await self._ask(probe)
        except TimeoutError:
            return Finding(Found.FAILED, reason=f"no answer within {self.deadline_ms} ms")
        except (WireError, EventTooLarge) as error:
            return Finding(Found.FAILED, reason=str(error))

    async def _ask(self, probe: Probe) -> Finding:
        async with self.http.open_stream(
            "POST",
            self._base_url() + probe.path,
            headers=(
                ("authorization", f"Bearer {self.api_key}"),
                ("content-type", probe.content_type),
            ),
            body=probe.body,
            head_deadline_ms=self.deadline_ms,
        ) as reply:
            body = await reply.read(
                bytes_max=self.answer_bytes_max, idle_deadline_ms=self.deadline_ms
            )
        return await self._judge(probe, reply, body)

    async def _judge(self, probe: Probe, reply: StreamReply, body: bytes) -> Finding:
        order_id = reply.header("x-penstock-order")
        if reply.status == 402:
            return Finding(Found.UNPAID, order_id, reason="402 insufficient funds")
        if reply.status in {429, 503}:
            return Finding(Found.REFUSED, order_id, reason=f"status {reply.status}")
        if reply.status != 200:
            return Finding(Found.FAILED, order_id, reason=f"status {reply.status}")
        try:
            if probe.is_stream:
                signed = self._check_stream(body)
                answer = answer_bytes(body)
            else:
                signed = check_whole(
                    body,
                    receipt=reply.header("x-penstock-receipt"),
                    countersign=reply.header("x-penstock-countersign"),
                    verify=self.verify,
                )
                answer = body
            if order_id and not signed.is_signed:
                signed = await self._confirm(probe, signed, order_id=order_id, answer=answer)
        except BadAnswer as error:
            return Finding(Found.BAD, order_id, reason=error.reason)
        return _weigh(probe, order_id, signed, answer=answer)

    async def _confirm(
        self, probe: Probe, told: Signatures, *, order_id: str, answer: bytes
    ) -> Signatures:
        """The signatures of the record; the gateway holds the question until it has them.

        Words that nobody signs in time count as none. Raises BadAnswer, WireError.
        """
        reply = await self.http.call(
            "GET",
            f"{self._base_url()}/v1/receipts/{order_id}",
            deadline_ms=self.deadline_ms,
            body_bytes_max=DOCUMENT_BYTES_MAX,
        )
        if reply.status != 200:
            return Signatures(None, told.countersign)
        return check_record(
            decode(reply.body),
            told,
            order_id=order_id,
            asked=Asked.of(probe.path, probe.body),
            digest=hashlib.sha256(answer).hexdigest(),
            verify=self.verify,
        )

    def _base_url(self) -> str:
        return self.gateway_url.rstrip("/").removesuffix("/v1")

    def _check_stream(self, body: bytes) -> Signatures:
        check = StreamCheck(self.verify)
        check.feed(body)
        return check.finish()


def answer_bytes(body: bytes) -> bytes:
    """The bytes of a stream that a receipt signs: all but what is said under them."""
    splitter = EventSplitter()
    parts = []
    for event in splitter.feed(body):
        said = parse_comment(event)
        if said is None or said[0] == CHECKPOINT_COMMENT:
            parts.append(event)
    return b"".join(parts)


def _weigh(probe: Probe, order_id: str, signed: Signatures, *, answer: bytes) -> Finding:
    receipt, seen = signed.receipt, signed.countersign
    if seen is not None and seen.outcome is not Outcome.COMPLETE:
        return Finding(Found.FAILED, order_id, reason=f"outcome {seen.outcome.value}")
    if receipt is None or seen is None:
        return Finding(Found.UNSIGNED, order_id, reason="no receipt or no countersignature")
    if receipt.order_id != order_id or seen.order_id != order_id:
        return Finding(Found.BAD, order_id, receipt.miner, reason="signed for another order")
    found = recount(answer, is_stream=probe.is_stream)
    if not _lies(probe, receipt, found):
        return Finding(Found.GOOD, order_id, receipt.miner)
    reason = f"{receipt.units.completion} units claimed for {found.content_bytes} bytes"
    if len(answer) > TRANSCRIPT_BYTES_MAX:
        return Finding(Found.LIED, order_id, receipt.miner, reason=f"{reason}; too long to show")
    assert hashlib.sha256(answer).hexdigest() == receipt.response_digest, "checked on arrival"
    transcript = b64encode(answer).decode()
    return Finding(Found.LIED, order_id, receipt.miner, transcript, reason)


def _lies(probe: Probe, receipt: Receipt, found: Recount) -> bool:
    return receipt.outcome in PAID and is_lie(
        receipt.units, found, is_counted=probe.path in COUNTED_PATHS
    )
