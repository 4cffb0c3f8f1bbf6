"""Chunked bodies: sizes off, bytes out (RFC 9112 7.1), for requests and replies alike.

A read of a fast stream holds hundreds of chunks. Split at every CR LF, such a read is sizes and
bodies in turn, and if each body is exactly as long as the size before it says, then that reading
is the one the grammar gives: three calls into C instead of a loop. Everything else is walked.
"""

import re

from penstock.kit.wire.fields import Malformed, parse_fields

_SIZE_LINE_BYTES_MAX = 256
_SPLIT_SIZE_MAX = 8_192
_SPLIT_BYTES_MIN = 64
_PLAIN_LINE_BYTES_MAX = 8
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[^\x00-\x08\x0a-\x1f\x7f"\\]|\\[^\x00-\x08\x0a-\x1f\x7f])*+"'
# RFC 9112 7.1.1: extensions are `;name` or `;name=value`; nobody reads them, and the whitespace that
# the grammar tolerates around them as "bad" is refused.
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,12})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+)*+"
).fullmatch
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,12}(?:;[^\x00-\x08\x0a-\x1f\x7f]*+)?)?").fullmatch
# RFC 9110 6.5.1: what decides where a message ends cannot stand behind it.
_NO_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host"})
_SIZES = {b"%x" % size: size for size in range(1, _SPLIT_SIZE_MAX)}


class Dechunker:
    """Feed it bytes of one chunked body; `rest` is what came behind the body's end."""

    __slots__ = ("_held", "_left", "_trailer_bytes_max", "done", "rest")

    def __init__(self, *, trailer_bytes_max: int) -> None:
        self.done = False
        self.rest = b""
        self._held = b""  # part of a size line, or of the trailers
        self._left = 0  # bytes to come of the present chunk and its CR LF; -1 in the trailers
        self._trailer_bytes_max = trailer_bytes_max

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`, joined. Raises Malformed."""
        if self._left == 0 and not self._held:
            at = data.find(b"\r\n", 0, _PLAIN_LINE_BYTES_MAX) + 2
            if len(data) - at - 2 == _SIZES.get(data[: at - 2]) and data.endswith(b"\r\n"):
                return data[at:-2]  # one whole chunk: what a paced stream's read brings
        return self._walk(data)

    def _walk(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = 0
        split = False
        bodies: list[bytes] = []
        while at < size and not self.done:
            left = self._left
            if left > 2:
                body = data[at : at + left - 2]
                bodies.append(body)
                at += len(body)
                self._left = left - len(body)
            elif left > 0:
                at = self._chunk_end(data, at)
            elif left < 0:
                at = self._trailers(data, at)
            elif not split and size - at >= _SPLIT_BYTES_MIN:
                split = True  # once a read: what it cannot take has to be walked
                at = _split(data, at, bodies)
            else:
                at = self._size_line(data, at)
        if self.done:
            self.rest = data[at:]
        return bodies[0] if len(bodies) == 1 else b"".join(bodies)

    def _chunk_end(self, data: bytes, at: int) -> int:
        """The CR LF behind a chunk, of which `_left` bytes are to come."""
        wanted = b"\r\n"[2 - self._left :]
        got = data[at : at + self._left]
        if not wanted.startswith(got):
            raise Malformed("a chunk is longer than its size")
        self._left -= len(got)
        return at + len(got)

    def _size_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:].removesuffix(b"\r")
        match = (_SIZE_LINE if end >= 0 else _SIZE_LINE_BEGUN)(line)
        if match is None:
            raise Malformed("a chunk's size is not a number")
        if len(line) > _SIZE_LINE_BYTES_MAX:
            raise Malformed("the line of a chunk's size is too long")
        if end < 0:
            self._held = data[at:]
            return len(data)
        length = int(match[1], 16)
        self._left = length + 2 if length else -1
        return end + 2

    def _trailers(self, data: bytes, at: int) -> int:
        """Behind the last chunk: header lines that nobody reads, and an empty line."""
        if data.startswith(b"\r\n", at):
            self.done = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if (len(data) if end < 0 else end) - at > self._trailer_bytes_max:
            raise TrailersTooLarge("its trailers are too large")
        if end < 0:
            self._held = data[at:]
            return len(data)
        fields = parse_fields(data[at:end].split(b"\r\n"), once=_NO_TRAILERS)
        if not _NO_TRAILERS.isdisjoint(fields):
            raise Malformed("a trailer says how long the body is")
        self.done = True
        return end + 4


class TrailersTooLarge(Malformed):
    """More trailers than headers would be allowed."""


def _split(data: bytes, at: int, bodies: list[bytes]) -> int:
    """Take all whole chunks from `at` on if they are plain; returns where they end."""
    parts = (data[at:] if at else data).split(b"\r\n")
    ends = (len(parts) - 1) & ~1  # the last part is what no line end has closed yet
    sizes = parts[0:ends:2]
    if sizes and sizes[-1] == b"0":
        sizes.pop()  # the last chunk and the empty line behind it
        ends -= 2
    found = parts[1:ends:2]
    if list(map(_SIZES.get, sizes)) != list(map(len, found)):
        return at
    bodies += found
    return at + sum(map(len, sizes)) + sum(map(len, found)) + 4 * len(found)
