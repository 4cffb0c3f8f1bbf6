"""One request as a careful client makes it: every answer is held against what is signed under it.

Words that come without signatures are held against the order's record. If that cannot be had (the
gateway was killed, the miner has not signed) the answer counts as one about which nobody said a word.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.client.answers import Signatures, StreamCheck, check_whole, decode
from penstock.client.errors import BadAnswer
from penstock.client.records import Asked, check_record
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient, StreamReply
from penstock.spec.keys import Verify
from penstock.spec.receipts import Countersign

HEAD_MS = 60_000
IDLE_MS = 30_000
BODY_BYTES_MAX = 1 << 20
UNSIGNED = Signatures(None, None)

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent. A person who leaves does so after `leave_after` data events (-1: stays)."""

    path: str
    body: bytes
    secret: str
    leave_after: int = -1


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back. `status` 0: nobody answered. `code` is the error's, "" if there is none.

    `doubt` says what does not hold of the answer, "" when all of it does.
    """

    status: int
    code: str = ""
    body: Any = None
    text: str = ""
    order_id: str = ""
    miner: str = ""
    size: int = 0
    has_left: bool = False
    countersign: Countersign | None = None
    doubt: str = ""


class Caller:
    """Calls gateways from one host."""

    def __init__(self, http: HttpClient, verify: Verify) -> None:
        self._http = http
        self._verify = verify

    async def ask(self, url: str, question: Question) -> Heard:
        """One request to the gateway at `url`, to its end or to where the person leaves."""
        try:
            async with self._http.open_stream(
                "POST",
                url + question.path,
                headers=(
                    ("authorization", f"Bearer {question.secret}"),
                    ("content-type", "application/json"),
                ),
                body=question.body,
                head_deadline_ms=HEAD_MS,
            ) as reply:
                if reply.header("content-type").startswith("text/event-stream"):
                    return await self._streamed(reply, url, question)
                return await self._whole(reply, url, question)
        except WireError as error:
            return Heard(status=0, code=type(error).__name__)

    async def close(self) -> None:
        """Hang up."""
        await self._http.close()

    async def _confirm(
        self, told: Signatures, url: str, *, order_id: str, asked: Asked, digest: str
    ) -> Signatures:
        """The signatures of the record. Raises BadAnswer."""
        if told.is_signed or not order_id:
            return told
        try:
            reply = await self._http.call(
                "GET", f"{url}/v1/receipts/{order_id}", deadline_ms=IDLE_MS
            )
        except WireError:
            return UNSIGNED
        if reply.status != 200:
            return UNSIGNED
        return check_record(
            decode(reply.body),
            told,
            order_id=order_id,
            asked=asked,
            digest=digest,
            verify=self._verify,
        )

    async def _whole(self, reply: StreamReply, url: str, question: Question) -> Heard:
        data = await reply.read(bytes_max=BODY_BYTES_MAX, idle_deadline_ms=IDLE_MS)
        signed, doubt, order_id = UNSIGNED, "", reply.header("x-penstock-order")
        try:
            signed = check_whole(
                data,
                receipt=reply.header("x-penstock-receipt"),
                countersign=reply.header("x-penstock-countersign"),
                verify=self._verify,
            )
            if reply.status == 200:
                asked = Asked.of(question.path, question.body)
                digest = hashlib.sha256(data).hexdigest()
                signed = await self._confirm(
                    signed, url, order_id=order_id, asked=asked, digest=digest
                )
        except BadAnswer as error:
            doubt = str(error)
        if reply.status == 200 and not order_id:
            doubt = doubt or "an answer without signatures"
        body = _decode(data)
        return Heard(
            status=reply.status,
            code=_code(body),
            body=body,
            text=_text(body),
            order_id=order_id,
            miner=reply.header("x-penstock-miner"),
            size=len(data),
            countersign=signed.countersign,
            doubt=doubt,
        )

    async def _streamed(self, reply: StreamReply, url: str, question: Question) -> Heard:
        check = StreamCheck(self._verify)
        order_id, miner = reply.header("x-penstock-order"), reply.header("x-penstock-miner")
        code, pieces, size, events = "", [], 0, 0
        signed, doubt = UNSIGNED, ""
        try:
            async for chunk in reply.chunks(idle_deadline_ms=IDLE_MS):
                size += len(chunk)
                for event in check.feed(chunk):
                    events += 1
                    code = code or _code(event)
                    pieces.append(_text(event))
                if 0 <= question.leave_after <= events:
                    return Heard(200, "", order_id=order_id, miner=miner, size=size, has_left=True)
            signed = check.finish()
            if signed.countersign is None:
                doubt = "a stream that ended without a countersignature"
            asked = Asked.of(question.path, question.body)
            signed = await self._confirm(
                signed, url, order_id=order_id, asked=asked, digest=check.digest
            )
        except BadAnswer as error:
            doubt = str(error)
        except WireError as error:
            # The gateway is gone in mid-answer: nothing is signed, so nothing is owed.
            code = type(error).__name__
            return Heard(200, code, order_id=order_id, miner=miner, size=size)
        return Heard(
            status=200,
            code=code,
            text="".join(pieces),
            order_id=order_id,
            miner=miner,
            size=size,
            countersign=signed.countersign,
            doubt=doubt,
        )


def _code(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def _text(body: Any) -> str:
    """The text of a whole chat answer, or the piece that one event of a stream brings."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not choices:
        return ""
    said = choices[0].get("message") or choices[0].get("delta") or {}
    return str(said.get("content") or "")
