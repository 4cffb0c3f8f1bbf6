"""A verdict proves itself: the body whose digest the miner signed, recounted by whoever reads it.

The receipt names the SHA-256 of the response. Whoever holds the response can count what is in it;
if the receipt claims more than that, the miner signed a lie. The count leans towards the miner: a
false verdict does more harm than a small lie that gets away.
"""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from json import loads
from typing import Any

from penstock.spec.errors import BadMessage
from penstock.spec.keys import Signed, Verify, open_signed, signed_digest
from penstock.spec.messages import Order, Verdict
from penstock.spec.receipts import Outcome, Receipt, Record, check_receipt
from penstock.spec.stream import completion_units_max
from penstock.spec.units import Units

TRANSCRIPT_BYTES_MAX = 65_536
CHOICES_MAX = 128
"""Ends of choices that are counted: OpenAI's bound for `n`."""

COUNTED_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose bodies hold completion units. Other bodies are judged by their usage object alone."""

TOLERANCE_PERCENT = 105
TOLERANCE_UNITS = 4
"""A claim may exceed the count by 5 % and by these units: tokens that end a turn leave no bytes."""


@dataclass(frozen=True, slots=True)
class Recount:
    """What a body holds. `prompt` and `completion` are its own usage object's, None without one."""

    events: int
    content_bytes: int
    prompt: int | None
    completion: int | None


def check_verdict(signed: Signed, record: Record, *, verify: Verify) -> Verdict:
    """The verdict, if its transcript proves that the record's receipt lied. Raises a SpecError.

    The lie is one of these: the receipt has more prompt or completion units than the body's own
    usage object says; or `100 * units.completion > 105 * (units_max + 4)`, where units_max is
    `completion_units_max` of the recount. A receipt that claims too little is no lie. Only a receipt
    that is paid (complete or cancelled) claims anything. The caller checks that the signer has a
    seat; who the miner is and what it said are checked here, against the receipt it signed.
    """
    verdict = open_signed(Verdict, signed, kind="verdict", verify=verify)
    if signed.signer != verdict.validator:
        raise _unproven("the signer is not the validator it names")
    order, receipt = _exhibit(record, verify)
    if (verdict.order_id, verdict.miner) != (order.order_id, order.miner):
        raise _unproven("of another order or miner")
    if receipt.outcome not in {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}:
        raise _unproven("the receipt claims nothing")
    body = _transcript(verdict.transcript)
    if sha256(body).hexdigest() != receipt.response_digest:
        raise _unproven("the transcript is not what the receipt signed")
    found = recount(body, is_stream=order.stream)
    if not is_lie(receipt.units, found, is_counted=order.path in COUNTED_PATHS):
        raise _unproven("the transcript bears out the receipt")
    return verdict


def is_lie(units: Units, found: Recount, *, is_counted: bool) -> bool:
    """Whether these units are more than this recount allows. The rule is in `check_verdict`."""
    if found.prompt is not None and units.prompt > found.prompt:
        return True
    if found.completion is not None and units.completion > found.completion:
        return True
    units_max = completion_units_max(events=found.events, content_bytes=found.content_bytes)
    return is_counted and 100 * units.completion > TOLERANCE_PERCENT * (units_max + TOLERANCE_UNITS)


def recount(body: bytes, *, is_stream: bool) -> Recount:
    """Count a body: each piece with content is an event, and each choice's end is one.

    Content bytes are the UTF-8 length of every string a choice carries except its role. The last
    usage object wins. What is no JSON holds nothing. Edge: a piece of empty content is no event, so
    padding a stream with empty pieces proves nothing.
    """
    events = content_bytes = 0
    ended: set[int] = set()
    usage: dict[str, Any] = {}
    for data in _data_events(body) if is_stream else (body,):
        value = _parse(data)
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("usage"), dict):
            usage = value["usage"]
        for choice in _choices(value):
            size = _content_bytes(choice)
            events += size > 0
            content_bytes += size
            if choice.get("finish_reason") and len(ended) < CHOICES_MAX:
                ended.add(_count(choice.get("index")) or 0)
    return Recount(
        events=events + len(ended),
        content_bytes=content_bytes,
        prompt=_count(usage.get("prompt_tokens")),
        completion=_count(usage.get("completion_tokens")),
    )


def _unproven(reason: str) -> BadMessage:
    return BadMessage(kind="verdict", reason=reason)


def _exhibit(record: Record, verify: Verify) -> tuple[Order, Receipt]:
    if record.receipt is None:
        raise _unproven("the record holds no receipt")
    order = open_signed(Order, record.order, kind="order", verify=verify)
    digest = signed_digest(record.order)
    return order, check_receipt(record.receipt, order, order_digest=digest, verify=verify)


def _transcript(text: str) -> bytes:
    """Raises BadMessage when it is not base64 or too long."""
    if len(text) > 4 * -(-TRANSCRIPT_BYTES_MAX // 3):
        raise _unproven("the transcript is too long")
    try:
        body = b64decode(text, validate=True)
    except ValueError as error:
        raise _unproven("the transcript is not base64") from error
    if len(body) > TRANSCRIPT_BYTES_MAX:
        raise _unproven("the transcript is too long")
    return body


def _data_events(body: bytes) -> Iterator[bytes]:
    """The data of each server-sent event; comments and other fields are skipped.

    A last event without an empty line after it counts too: a cancelled stream may end there.
    """
    lines: list[bytes] = []
    for line in (*body.splitlines(), b""):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _parse(data: bytes) -> Any:
    """A JSON value with fractions left as text, or None: `[DONE]` and garbage hold nothing."""
    try:
        return loads(data, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _choices(value: dict[str, Any]) -> list[dict[str, Any]]:
    choices = value.get("choices")
    return [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []


def _content_bytes(choice: dict[str, Any]) -> int:
    """UTF-8 bytes of every string below delta, message or text, keys and the role left out."""
    size = 0
    open_: list[Any] = [choice.get(part) for part in ("delta", "message", "text")]
    while open_:
        value = open_.pop()
        if isinstance(value, str):
            size += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            open_.extend(item for key, item in value.items() if key != "role")
        elif isinstance(value, list):
            open_.extend(value)
    return size


def _count(value: object) -> int | None:
    return value if type(value) is int else None
