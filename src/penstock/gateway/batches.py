"""A batch: OpenAI's object, with what its runner keeps in it, and how its state may change.

The record is one cell. Whoever changes it names the revision it was read at, so that exactly one
gateway runs a batch: the `holder`, until `until_ms`, which it renews by its beats.
"""

from hashlib import sha256
from typing import Any

import msgspec

from penstock.gateway.calls import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    EMBEDDINGS_PATH,
    IMAGES_PATH,
    MODERATIONS_PATH,
    RERANK_PATH,
)
from penstock.gateway.dialects.responses import RESPONSES_PATH

ENDPOINTS = (
    *(CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH, EMBEDDINGS_PATH),
    *(MODERATIONS_PATH, IMAGES_PATH, RERANK_PATH),
)
"""Paths whose requests and answers are JSON."""

WINDOW = "24h"
KEPT_MS = 31 * 86_400_000
"""A record outlives its files by a day."""
METADATA_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
HEX_CHARS = 32

VALIDATING = "validating"
IN_PROGRESS = "in_progress"
FINALIZING = "finalizing"
CANCELLING = "cancelling"
COMPLETED = "completed"
FAILED = "failed"
EXPIRED = "expired"
CANCELLED = "cancelled"
OPEN = frozenset({VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING})
CANCELLABLE = frozenset({VALIDATING, IN_PROGRESS, FINALIZING})


class LineError(msgspec.Struct, frozen=True):
    """Why a line, or the file (no line), cannot be run."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """Lines: run well, run badly, all."""

    completed: int = 0
    failed: int = 0
    total: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all answers together, as the engines counted them."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
        )

    def shown(self) -> dict[str, Any]:
        """OpenAI's batch usage."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One batch. Times in seconds, but for those in `_ms`; 0 and "" mean: not so far."""

    id: str
    shelf: str
    key_hash: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    output_life_s: int
    status: str = VALIDATING
    metadata: dict[str, str] | None = None
    model: str = ""
    errors: list[LineError] = []
    counts: Counts = Counts()
    usage: Usage = Usage()
    in_progress_at: int = 0
    finalizing_at: int = 0
    completed_at: int = 0
    failed_at: int = 0
    expired_at: int = 0
    cancelling_at: int = 0
    cancelled_at: int = 0
    output_file_id: str = ""
    error_file_id: str = ""
    is_late: bool = False
    """The window ended before the last line did."""
    holder: str = ""
    until_ms: int = 0

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    def shown(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model or None,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id or None,
            "error_file_id": self.error_file_id or None,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at or None,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at or None,
            "completed_at": self.completed_at or None,
            "failed_at": self.failed_at or None,
            "expired_at": self.expired_at or None,
            "cancelling_at": self.cancelling_at or None,
            "cancelled_at": self.cancelled_at or None,
            "request_counts": self.counts,
            "usage": self.usage.shown(),
            "metadata": self.metadata,
        }

    def file_id(self, kind: str) -> str:
        """The id of its output or error file: a batch that is finished twice has the same ones."""
        return f"file-{_hex(f'{self.id}/{kind}')}"

    def request_id(self, line: int) -> str:
        """What OpenAI calls the id of a batch's request."""
        return f"batch_req_{_hex(f'{self.id}/{line}')}"


_decoder = msgspec.json.Decoder(Batch)
_encode = msgspec.json.Encoder().encode


def read_batch(value: bytes) -> Batch:
    """The record in a cell."""
    return _decoder.decode(value)


def spell_batch(batch: Batch) -> bytes:
    """The record for a cell."""
    return _encode(batch)


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:HEX_CHARS]
