"""One request as a careful client makes it: every answer is held against what is signed under it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.client.answers import Signatures, StreamCheck, check_whole
from penstock.client.errors import BadAnswer
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
                    return await self._streamed(reply, question)
                return await self._whole(reply)
        except WireError as error:
            return Heard(status=0, code=type(error).__name__)

    async def close(self) -> None:
        """Hang up."""
        await self._http.close()

    async def _whole(self, reply: StreamReply) -> Heard:
        data = await reply.read(bytes_max=BODY_BYTES_MAX, idle_deadline_ms=IDLE_MS)
        signed, doubt = UNSIGNED, ""
        try:
            signed = check_whole(
                data,
                receipt=reply.header("x-penstock-receipt"),
                countersign=reply.header("x-penstock-countersign"),
                verify=self._verify,
            )
        except BadAnswer as error:
            doubt = str(error)
        if reply.status == 200 and (signed.receipt is None or signed.countersign is None):
            doubt = doubt or "an answer without signatures"
        body = _decode(data)
        return Heard(
            status=reply.status,
            code=_code(body),
            body=body,
            text=_text(body),
            order_id=reply.header("x-penstock-order"),
            miner=reply.header("x-penstock-miner"),
            size=len(data),
            countersign=signed.countersign,
            doubt=doubt,
        )

    async def _streamed(self, reply: StreamReply, question: Question) -> Heard:
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
        except BadAnswer as error:
            doubt = str(error)
        except WireError as error:
            # The gateway is gone in mid-answer: nothing is signed, so nothing is owed.
            code = type(error).__name__
            return Heard(200, code, order_id=order_id, miner=miner, size=size)
        if not doubt and signed.countersign is None:
            doubt = "a stream that ended without a countersignature"
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
