"""What an engine's reply means before any of it has been passed on: an answer, a refusal, a failure.

An engine's 4xx is about the request and goes to the client, who pays no units. But an engine that
is full (429, 503) is our want of room, and one that does not know us (401, 403) our own mistake.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from penstock.kit.wire.http import Response
from penstock.kit.wire.problem import problem

ERROR_BYTES_MAX = 1 << 20
EVENT_STREAM = "text/event-stream"

_FULL = frozenset({429, 503})
_OURS = frozenset({401, 403, 407, 408})
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Meaning(Enum):
    """What to do with an engine's reply."""

    ANSWER = "answer"
    REQUEST_REFUSED = "request_refused"
    FULL = "full"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an engine's reply, and whether a stream was asked for."""

    status: int
    content_type: str
    is_stream_wanted: bool


def meaning(head: Head) -> Meaning:
    """The rule above. An engine that answers a stream's request in one piece has failed it."""
    if head.status == 200:
        is_stream = head.content_type.startswith(EVENT_STREAM)
        return Meaning.ANSWER if is_stream is head.is_stream_wanted else Meaning.FAILED
    if head.status in _FULL:
        return Meaning.FULL
    if 400 <= head.status < 500 and head.status not in _OURS:
        return Meaning.REQUEST_REFUSED
    return Meaning.FAILED


def passed_on(status: int, body: bytes) -> Response:
    """An engine's 4xx for the client: as it is when it has the usual envelope, else put into it."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = {}
    if isinstance(fields.get("error"), dict):
        return Response(status, body, (("content-type", "application/json"),))
    text = body[:2000].decode(errors="replace").strip()
    return problem(
        status, "engine_refused", f"The engine refused the request: {text or 'without a word'}"
    )
