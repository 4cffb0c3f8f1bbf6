"""What an engine's reply means before any of it has been passed on: an answer, a refusal, a failure.

An engine's 4xx is about the request and goes to the client, who pays no units. But an engine that
is full (429, 503) is our want of room, and one that does not know us (401, 403) our own mistake.

llama.cpp and others answer 500 to requests they do not understand (an image for a text model, a
malformed tool). If that were our failure, anybody could trip every breaker of a model with a few
wrong requests; so a 500 that carries an error envelope, from an engine that is well, is about the
request too.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from penstock.kit.wire.http import Response
from penstock.kit.wire.problem import problem
from penstock.miner.paths import DETOKENIZE_PATH

ERROR_BYTES_MAX = 1 << 20
TEXT_CHARS_MAX = 2_000
CODE_CHARS_MAX = 128
EVENT_STREAM = "text/event-stream"

_FULL = frozenset({429, 503})
_CODES = {"exceed_context_size_error": "context_length_exceeded"}
"""llama.cpp's types by the code that OpenAI uses."""
_INNER = re.compile(
    r"\b(?:std|vector|basic_string|map|unordered_map)::|\[json\.exception|_M_\w+|GGML_|bad_alloc"
    r"|\bsto[ifdl]+\b|Traceback \(most recent|0x[0-9a-f]{8}"
)
"""What an engine's own language says when a check of its own is missing: no word to a caller."""
_HINT = re.compile(
    r"( - hint: |, try increasing it|[.] increase the physical batch size).*", re.DOTALL
)
"""What an engine advises its operator: its caller cannot follow that."""
_UNREAD = "The engine cannot read the request: a field of it is of the wrong type or out of range."
_UNKNOWN_IDS = "tokens has an id that is not in this model's vocabulary. Send ids of /tokenize."
_BLAMING = frozenset({500, 501})
_OURS = frozenset({401, 403, 407, 408})
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Meaning(Enum):
    """What to do with an engine's reply."""

    ANSWER = "answer"
    REQUEST_REFUSED = "request_refused"
    REQUEST_BLAMED = "request_blamed"
    """About the request if it says so in an envelope and the engine is well; else a failure."""
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
    if head.status in _BLAMING:
        return Meaning.REQUEST_BLAMED
    return Meaning.FAILED


def passed_on(status: int, body: bytes, *, request_id: str, path: str = "") -> Response:
    """An engine's refusal in our envelope: its words, its code where that is a text, as OpenAI's
    clients expect it. A 5xx that blames the request is a 400. `request_id` is the order's id: the
    receipt is over these bytes, so the gateway cannot put its own in later. `path` is the order's:
    what the engine's own exceptions say is said in our words.
    """
    error = _envelope(body)
    said = blame(body)
    if not said:
        text = body[:TEXT_CHARS_MAX].decode(errors="replace").strip() or "without a word"
        said = f"The engine refused the request: {text}"
    said = _HINT.sub("", said[:TEXT_CHARS_MAX])
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    if not isinstance(code, str):
        code = _CODES.get(kind if isinstance(kind, str) else "", "engine_refused")
    if _INNER.search(said):
        is_ids = path == DETOKENIZE_PATH
        code, said = "invalid_request", _UNKNOWN_IDS if is_ids else _UNREAD
        param = "tokens" if is_ids else None
    return problem(
        status if status < 500 else 400,
        code[:CODE_CHARS_MAX],
        said,
        param=param[:CODE_CHARS_MAX] if isinstance(param, str) else None,
        request_id=request_id,
    )


def blame(body: bytes) -> str:
    """The message of an error envelope; "" when the body is none."""
    message = _envelope(body).get("message")
    return message if isinstance(message, str) else ""


def _envelope(body: bytes) -> dict[str, Any]:
    try:
        error = _decode(body).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}
