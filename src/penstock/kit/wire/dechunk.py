"""Chunked bodies: sizes off, bytes out (RFC 9112 7.1), for requests and replies alike.

A read of a fast stream holds hundreds of chunks: those that are plain are taken in one go
(`scan.py`), everything else is walked.
"""

import re

from penstock.kit.wire.fields import Malformed, parse_fields
from penstock.kit.wire.scan import plain_chunks

_SIZE_LINE_BYTES_MAX = 256
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
            body, at = plain_chunks(data, 0)
            return body if at == len(data) else self._walk(data, at, body=body)
        return self._walk(data, 0)

    def _walk(self, data: bytes, at: int, *, body: bytes = b"") -> bytes:
        """From `at` on; `body` is what stood before it."""
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        split = bool(at)  # once a read: what it cannot take has to be walked
        bodies: list[bytes] = [body] if body else []
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
            elif not split:
                split = True
                body, at = plain_chunks(data, at)
                bodies.append(body)
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
