"""What the gateway sees of one answer: its bytes counted and hashed, and the miner's signed words.

An event goes on to the client, byte for byte, in the moment in which it is complete, and is hashed
then: only then is it known whether it is a part of the answer or the receipt that ends it
(spec/stream.py).
"""

from dataclasses import dataclass
from hashlib import sha256

from penstock.kit.errors import EventTooLarge
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.spec.stream import CHECKPOINT_COMMENT, RECEIPT_COMMENT

EVENT_FRAME_BYTES = 8
"""`data: ` and the empty line: bytes of an event that cannot be content."""
_COLON = ord(":")


@dataclass(frozen=True, slots=True)
class Marked:
    """A checkpoint comment, and what was seen before it. Verified only when it is needed."""

    payload: bytes
    digest: str
    body_bytes: int
    events: int
    content_bytes: int


class Tally:
    """Counts of one answer. `receipt` is the payload of the receipt comment once it came."""

    __slots__ = (
        "_frame_bytes",
        "_hash",
        "_splitter",
        "body_bytes",
        "broken",
        "checkpoint",
        "events",
        "receipt",
    )

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._hash = sha256()
        self._frame_bytes = 0
        self.body_bytes = 0
        self.events = 0
        self.checkpoint: Marked | None = None
        self.receipt: bytes | None = None
        self.broken = ""
        """Why the stream cannot be followed any further, if so."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the answer's bytes so far."""
        return self._hash.hexdigest()

    @property
    def content_bytes(self) -> int:
        """The most bytes that can be content: all but comments and the frames of events."""
        return max(0, self.body_bytes - self._frame_bytes)

    def feed(self, chunk: bytes) -> bytes:
        """Count a chunk of a stream; returns what goes on to the client: the events it completes.

        A part of an event is of no use to a client, and one that is never completed would be read
        as broken JSON. Nothing behind the receipt goes on.
        """
        try:
            events = self._splitter.feed(chunk)
        except EventTooLarge as error:
            self.broken = str(error)
            return b""
        for count, event in enumerate(events, start=1):
            if event[0] == _COLON:
                self._comment(event)
                if self.receipt is not None:
                    return b"".join(events[:count])
            else:
                self.events += 1
                self._frame_bytes += EVENT_FRAME_BYTES
            self._hash.update(event)
            self.body_bytes += len(event)
        return events[0] if len(events) == 1 else b"".join(events)

    def take_whole(self, body: bytes) -> None:
        """Count an answer that came in one piece."""
        self._hash.update(body)
        self.body_bytes += len(body)

    def _comment(self, event: bytes) -> None:
        named = parse_comment(event)
        if named is not None and named[0] == RECEIPT_COMMENT:
            self.receipt = named[1]
            return
        if named is not None and named[0] == CHECKPOINT_COMMENT:
            self.checkpoint = Marked(
                payload=named[1],
                digest=self.digest,
                body_bytes=self.body_bytes,
                events=self.events,
                content_bytes=self.content_bytes,
            )
        self._frame_bytes += len(event)
