"""Request bytes to complete requests: HTTP/1.1 framing with bounds, apart from any transport."""

import enum
import re
from collections.abc import Callable

from penstock.kit.wire.dechunk import Dechunker, TrailersTooLarge
from penstock.kit.wire.fields import ODD_LINE_END, Malformed, UnknownVersion, starts_token
from penstock.kit.wire.heads import (
    Head,
    Heads,
    Refused,
    head_too_large,
    malformed,
    read_head,
    shape,
)
from penstock.kit.wire.http import Response
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.problem import problem

_CR = 13
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+").match


class Phase(enum.Enum):
    """Where the next byte belongs."""

    BETWEEN = "between"
    HEAD = "head"
    BODY = "body"
    REFUSED = "refused"


class Arrived:
    """One complete request, or with None one whose body is streamed and follows in pieces."""

    __slots__ = ("body", "head", "length")

    def __init__(self, head: Head, body: bytes | None, length: int = 0) -> None:
        self.head = head
        self.body = body
        self.length = length  # announced, of a streamed body that is not chunked


Item = Arrived | bytes
"""What a read brought: a request, or the next bytes of a body that is streamed (b"" is its end)."""

Streams = Callable[[str, str], bool]
"""(method, path): is the body to be handed on as it comes, instead of whole?"""


class Intake:
    """Feed it bytes; take complete requests, or one refusal, after which it takes no more."""

    __slots__ = (
        "_body_bytes",
        "_dechunker",
        "_head",
        "_heads",
        "_held",
        "_last",
        "_left",
        "_limits",
        "_parts",
        "_streamed",
        "_streams",
        "continue_wanted",
        "path",
        "phase",
        "refusal",
    )

    def __init__(
        self, limits: IntakeLimits, *, heads: Heads | None = None, streams: Streams | None = None
    ) -> None:
        self.phase = Phase.BETWEEN
        self.refusal: Response | None = None
        self.path = ""  # of the last head that was read
        self.continue_wanted = False  # the client waits for 100 Continue before it sends its body
        self._limits = limits
        self._heads = heads if heads is not None else Heads()
        self._streams = streams
        self._held: bytearray | None = None  # a head that has not ended
        self._head: Head | None = None  # whose body is arriving
        self._dechunker: Dechunker | None = None
        self._left = 0  # bytes to come of a body with a length
        self._parts: list[bytes] | None = None
        self._body_bytes = 0  # seen of the body that is arriving
        self._streamed = False  # that body is handed on as it comes
        self._last = False  # the client said this was its last request

    @property
    def held_bytes(self) -> int:
        """How much there is of a body that is still arriving."""
        return self._body_bytes if self.phase is Phase.BODY and not self._streamed else 0

    def turn_away(self, response: Response) -> None:
        """Refuse the request that is arriving, for a reason that lies outside this connection."""
        self._refuse(response)

    def feed(self, data: bytes) -> list[Item]:
        """What `data` completes; look at `refusal` afterwards. Never raises."""
        items: list[Item] = []
        try:
            while data and not self._last and self.phase is not Phase.REFUSED:
                if self.phase is Phase.BODY:
                    data = self._take_body(data, items)
                else:
                    data = self._take_head(data, items)
        except Refused as refuse:
            self._refuse(refuse.response)
        except UnknownVersion:
            self._refuse(problem(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken."))
        except TrailersTooLarge:
            self._refuse(head_too_large(self._limits.head_bytes_max))
        except Malformed as error:
            self._refuse(malformed(str(error)))
        return items

    def _refuse(self, response: Response) -> None:
        self.refusal = response
        self.phase = Phase.REFUSED
        self._held = self._parts = self._dechunker = self._head = None

    def _take_head(self, data: bytes, items: list[Item]) -> bytes:
        """One head, and its body if that is here as well; returns what is behind them."""
        if self._held is not None:
            return self._hold(data)
        if data[0] == _CR:  # RFC 9112 2.2: an empty line before a request is no request
            data = _without_empty_lines(data)
            if not data:
                self.phase = Phase.BETWEEN
                return data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return self._hold(data)
        head, length = self._understand(data, end)
        behind = data[end + 4 :]
        if not length and not head.chunked:
            items.append(Arrived(head, b""))
            self._close_message(head)
            return behind
        if not head.chunked and len(behind) >= length <= self._limits.body_bytes_max:
            items.append(Arrived(head, behind[:length]))
            self._close_message(head)
            return behind[length:]
        streamed = self._streams is not None and self._streams(head.method, head.path)
        bytes_max = self._bytes_max(streamed=streamed)
        if length > bytes_max:
            raise Refused(_body_too_large(bytes_max))
        self._begin_body(head, length, streamed=streamed)
        if streamed:
            items.append(Arrived(head, None, length))
        return behind

    def _understand(self, data: bytes, end: int) -> tuple[Head, int]:
        """The head that `data[:end]` is, and the length of its body."""
        key, digits = shape(data, end)
        head = self._heads.find(key)
        if head is None:
            if end > self._limits.head_bytes_max:
                raise Refused(head_too_large(self._limits.head_bytes_max))
            head = read_head(data[:end], self._limits)
            self._heads.keep(key, head)
        self.path = head.path
        return head, int(digits) if digits else head.length

    def _hold(self, data: bytes) -> bytes:
        """Keep an unfinished head; as soon as it has an end it is given back to be read.

        Each byte is looked at once, however small the reads are.
        """
        held = self._held
        if held is None:
            held = self._held = bytearray()
            self.phase = Phase.HEAD
        seen = len(held)
        held += data
        if held.startswith(b"\r\n") or held.find(b"\r\n\r\n", max(0, seen - 3)) >= 0:
            self._held = None
            return bytes(held)
        if len(held) > self._limits.head_bytes_max:
            raise Refused(head_too_large(self._limits.head_bytes_max))
        if ODD_LINE_END(held, max(0, seen - 1)) is not None:
            raise Malformed("a line does not end with CR LF")
        if not seen and held != b"\r" and not starts_token(held):
            raise Malformed("its first line is not a request line")
        return b""

    def _begin_body(self, head: Head, length: int, *, streamed: bool) -> None:
        self.phase = Phase.BODY
        self.continue_wanted = head.expects
        self._head = head
        self._left = length
        self._body_bytes = 0
        self._streamed = streamed
        self._parts = []
        if head.chunked:
            self._dechunker = Dechunker(trailer_bytes_max=self._limits.head_bytes_max)

    def _take_body(self, data: bytes, items: list[Item]) -> bytes:
        """What there is of a body; returns what is behind its end."""
        dechunker = self._dechunker
        if dechunker is not None:
            part = dechunker.feed(data)
            behind, done = dechunker.rest, dechunker.done
        else:
            part = data[: self._left]
            behind = data[self._left :]
            self._left -= len(part)
            done = not self._left
        self._body_bytes += len(part)
        bytes_max = self._bytes_max(streamed=self._streamed)
        if self._body_bytes > bytes_max:
            raise Refused(_body_too_large(bytes_max))
        assert self._parts is not None
        if part:
            (items if self._streamed else self._parts).append(part)
        if done:
            self._end_body(items)
        return behind

    def _end_body(self, items: list[Item]) -> None:
        assert self._head is not None
        assert self._parts is not None
        if self._streamed:
            items.append(b"")
        head, parts = self._head, self._parts
        self._head = self._parts = self._dechunker = None
        if not self._streamed:
            items.append(Arrived(head, parts[0] if len(parts) == 1 else b"".join(parts)))
        self._close_message(head)

    def _close_message(self, head: Head) -> None:
        self.phase = Phase.BETWEEN
        self.continue_wanted = False
        self._last = not head.keep_alive

    def _bytes_max(self, *, streamed: bool) -> int:
        limits = self._limits
        return limits.upload_bytes_max if streamed else limits.body_bytes_max


def _without_empty_lines(data: bytes) -> bytes:
    match = _EMPTY_LINES(data)
    assert match is not None
    return data[match.end() :]


def _body_too_large(bytes_max: int) -> Response:
    return problem(
        413,
        "body_too_large",
        f"The request's body is larger than the {bytes_max} bytes taken here. Send less at once.",
    )
