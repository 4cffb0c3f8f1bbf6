"""A streamed answer on its way to the client: the miner's bytes as they come, then our countersignature.

Nothing is held back, so a client that reads slowly slows the miner down, and the time that takes is
the client's: past its bound it counts as gone and pays for what was proven. Else the order's deadline
would pass, the answer would cost nothing, and the miner would be blamed. While the engine is silent
the client hears a comment now and then, so that nobody between the two takes the line for dead.
"""

import msgspec

from penstock.gateway.dialects import Translation
from penstock.gateway.inside import Asker
from penstock.kit.ports import Clock
from penstock.kit.sse import comment
from penstock.kit.wire.http import SSE_HEADERS, encode_fields
from penstock.kit.wire.problem import problem_type
from penstock.spec.stream import ALIVE_COMMENT, COUNTERSIGN_COMMENT

KEEP_ALIVE = comment(ALIVE_COMMENT, b"gateway")
OK = 200
SSE_FIELDS = encode_fields(SSE_HEADERS)


class Relay:
    """The client's side of one stream; `is_open` once its head has gone out."""

    __slots__ = (
        "_client_us",
        "_clock",
        "_exchange",
        "_full_since_us",
        "_heard_us",
        "_translation",
        "is_open",
    )

    def __init__(self, exchange: Asker, clock: Clock, translation: Translation | None) -> None:
        self._exchange = exchange
        self._clock = clock
        self._translation = translation
        self._client_us = 0
        self._full_since_us = 0
        self._heard_us = clock.mono_us()
        """When the client was last told something."""
        self.is_open = False

    def open(self, fields: bytes) -> None:
        """The head. From here on there is no other miner for this request."""
        self.is_open = True
        self._exchange.open_encoded(OK, SSE_FIELDS + fields)

    def pass_on(self, part: bytes, now_us: int) -> bool:
        """Whole events of the miner. True: the client is behind, pause the miner until `drained`."""
        if self._translation is not None:
            part = self._translation.feed(part)
        self._heard_us = now_us
        exchange = self._exchange
        exchange.write(part)
        if not exchange.is_full:
            return False
        if not self._full_since_us:
            self._full_since_us = now_us
        return True

    def drained(self) -> None:
        """The client has caught up."""
        if self._full_since_us:
            self._client_us += self._clock.mono_us() - self._full_since_us
            self._full_since_us = 0

    def close(self, tail: bytes, countersign: bytes) -> None:
        """The last events, and what we countersigned, as the stream's last words."""
        if self._translation is not None:
            tail = (self._translation.feed(tail) if tail else b"") + self._translation.end()
        word = comment(COUNTERSIGN_COMMENT, b'{"body":' + countersign + b"}")
        self._exchange.close_stream(tail + word)

    def close_lost(self, envelope: dict[str, object], countersign: bytes) -> None:
        """The answer ends in an error, which stock clients raise on reading it."""
        word = b""
        if countersign:
            word = comment(COUNTERSIGN_COMMENT, b'{"body":' + countersign + b"}")
        if self._translation is not None:
            event = self._translation.error_event(envelope)
        else:
            event = b"data: " + msgspec.json.encode(envelope) + b"\n\n"
        self._exchange.close_stream(event + word)

    def is_stalled(self, now_us: int, reader_ms: int) -> bool:
        """Has the client kept the miner waiting for longer than it may, all its waits together?"""
        waited_us = self._client_us
        if self._full_since_us:
            waited_us += now_us - self._full_since_us
        return waited_us > reader_ms * 1000

    def is_quiet(self, now_us: int, keepalive_ms: int) -> bool:
        """Has the client heard nothing for so long?"""
        return now_us - self._heard_us >= keepalive_ms * 1000 and not self._full_since_us

    def keep_alive(self, now_us: int) -> None:
        """A word that every client ignores."""
        self._heard_us = now_us
        self._exchange.write(KEEP_ALIVE)


def lost_envelope(reason: str, request_id: str) -> dict[str, object]:
    """What a client reads when the miner was lost in mid-stream."""
    return {
        "error": {
            "message": f"The miner was lost in mid-answer ({reason}). Nothing was charged. Try again.",
            "type": problem_type(502),
            "param": None,
            "code": "miner_failed",
            "request_id": request_id,
        }
    }
