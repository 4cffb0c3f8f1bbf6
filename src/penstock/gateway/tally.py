"""What the gateway sees of one answer: its bytes counted and hashed, and the miner's words in it.

An event goes on to the client, byte for byte, in the moment in which it is complete, and is hashed
then: only then is it known whether it is a part of the answer or the receipt that ends it
(spec/stream.py). JSON never holds a raw line end, so whole events are found and counted by a search
for empty lines, many at a time; only our own comments are looked at one by one.
"""

from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256

from penstock.kit.errors import EventTooLarge
from penstock.kit.sse import EVENT_BYTES_MAX, EventSplitter, parse_comment
from penstock.kit.wire.scan import plain_events
from penstock.spec.stream import CHECKPOINT_COMMENT, RECEIPT_COMMENT

EVENT_FRAME_BYTES = 8
"""`data: ` and the empty line: bytes of an event that cannot be content."""
WORD_BYTES_MAX = 16_384
"""A signed message of a miner is about 1 KiB; a record must always fit the bus."""
_COLON, _BRACE = ord(":"), ord("{")
_END = b"\n\n"
_COMMENT = b"\n\n:"


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
        "_rest",
        "_splitter",
        "body_bytes",
        "broken",
        "checkpoint",
        "events",
        "receipt",
    )

    def __init__(self) -> None:
        self._rest: bytearray | None = None
        """An event that is not complete yet."""
        self._splitter: EventSplitter | None = None
        """For engines that end lines with CR: event by event, from the first CR on."""
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
        if self._rest is None and self._splitter is None:
            count = plain_events(chunk)
            if count >= 0:
                return self._plain(chunk, count)
        if self._splitter is not None or b"\r" in chunk:
            return self._feed_lines(chunk)
        whole = chunk
        if self._rest is not None:
            whole = self._joined(chunk)
        elif chunk[-2:] != _END:
            whole = self._cut(chunk)
        if not whole:
            return whole
        count = plain_events(whole)
        if count >= 0:
            return self._plain(whole, count)
        return self._take(whole)

    def take_whole(self, body: bytes) -> None:
        """Count an answer that came in one piece."""
        self._hash.update(body)
        self.body_bytes += len(body)

    def _plain(self, whole: bytes, count: int) -> bytes:
        """Take whole events without a comment among them."""
        self.events += count
        self._frame_bytes += EVENT_FRAME_BYTES * count
        self._hash.update(whole)
        self.body_bytes += len(whole)
        return whole

    def _cut(self, chunk: bytes) -> bytes:
        """The whole events of a chunk; what is behind them waits."""
        end = chunk.rfind(_END) + 2
        if end == 1:
            end = 0
        self._rest = bytearray(chunk[end:])
        self._check(len(self._rest))
        return chunk[:end]

    def _joined(self, chunk: bytes) -> bytes:
        """What waits and a chunk behind it, as far as they are whole events. The old part is not
        searched again: an event in many pieces costs no more than one in few.
        """
        rest = self._rest
        assert rest is not None, "something waits"
        search_from = max(0, len(rest) - 1)
        rest += chunk
        end = rest.rfind(_END, search_from) + 2
        if end == 1:
            self._check(len(rest))
            return b""
        whole = bytes(rest[:end])
        del rest[:end]
        if not rest:
            self._rest = None
        return whole

    def _take(self, whole: bytes) -> bytes:
        """Count events among which there are comments; returns them up to the receipt."""
        start, length = 0, len(whole)
        while start < length:
            if whole[start] == _COLON:
                end = whole.index(_END, start) + 2
                event = whole[start:end]
                self._comment(event)
                if self.receipt is not None:
                    return whole[:end]
                self._count(event, events=0)
            else:
                found = whole.find(_COMMENT, start)
                end = length if found < 0 else found + 2
                part = whole[start:end]
                count = part.count(_END)
                self._frame_bytes += EVENT_FRAME_BYTES * count
                self._count(part, events=count)
            start = end
        return whole

    def _feed_lines(self, chunk: bytes) -> bytes:
        """As `feed`, for any line ends: slower, and rare."""
        if self._splitter is None:
            self._splitter = EventSplitter()
            chunk = bytes(self._rest or b"") + chunk
            self._rest = None
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
                self._count(event, events=0)
            else:
                self._frame_bytes += EVENT_FRAME_BYTES
                self._count(event, events=1)
        return b"".join(events)

    def _count(self, part: bytes, *, events: int) -> None:
        self.events += events
        self._hash.update(part)
        self.body_bytes += len(part)

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

    def _check(self, size: int) -> None:
        if size > EVENT_BYTES_MAX:
            self.broken = str(EventTooLarge(EVENT_BYTES_MAX))


def decoded_word(header: bytes) -> bytes:
    """The bytes of a receipt header: JSON as it is, or base64url; what is none, or too long, gives no
    receipt that parses.
    """
    if header[0] == _BRACE:
        return header
    if len(header) > 2 * WORD_BYTES_MAX:
        return b""
    try:
        return urlsafe_b64decode(header + b"=" * (-len(header) % 4))
    except (NotBase64, ValueError):
        return b""
