"""Server-sent events, byte for byte: split a stream into events without changing it.

The relay forwards an upstream's bytes verbatim and hashes them, so the splitter hands out raw
events that concatenate to exactly what came in, however the network cut it. Penstock's own
messages inside a stream are comments, which every client ignores (WHATWG HTML 9.2.6).
"""

import re

from penstock.kit.errors import EventTooLarge

EVENT_BYTES_MAX = 1 << 20

# A line end followed by an empty line. `\r(?!\n)` because CR LF is one line end, not two.
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LINE = re.compile(rb"\r\n|\n|\r")
_COMMENT = b": penstock-"
_NAME = re.compile(r"[a-z][a-z0-9-]*")


class EventSplitter:
    """Feed it chunks, get complete raw events, each with the blank line that ends it.

    A lone CR at the end of a chunk may be half of CR LF, so an event that ends in one is held
    back until the next byte (no known engine ends lines that way).
    """

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._rest = bytearray()  # grows in place: an event in many pieces is not copied each time
        self._scanned = 0  # bytes of the rest that hold no end; only the last three can begin one
        self._event_bytes_max = event_bytes_max

    @property
    def pending(self) -> int:
        """Bytes of an event that is not complete."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises EventTooLarge past the bound."""
        if not self._rest and data.find(b"\n\n") == len(data) - 2 >= 0 and b"\r" not in data:
            self._check(len(data))
            return [data]
        rest = self._rest
        rest += data
        events: list[bytes] = []
        start = 0
        search_from = max(0, self._scanned - 3)
        while (match := _END.search(rest, search_from)) is not None:
            end = match.end()
            del match  # it holds the buffer, which then could not shrink
            if end == len(rest) and rest.endswith(b"\r"):
                break
            self._check(end - start)
            events.append(bytes(rest[start:end]))
            start = search_from = end
        if start:
            del rest[:start]
        self._scanned = len(rest)
        self._check(len(rest))
        return events

    def finish(self) -> bytes:
        """What is left when the stream has ended: b"" unless it was cut inside an event."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._scanned = 0
        return rest

    def _check(self, size: int) -> None:
        if size > self._event_bytes_max:
            raise EventTooLarge(self._event_bytes_max)


def is_comment(event: bytes) -> bool:
    """Does the event hold nothing but comment lines?"""
    return event.startswith(b":") and all(
        line.startswith(b":") for line in _LINE.split(event) if line
    )


def event_data(event: bytes) -> bytes:
    """The values of the `data` lines, joined with LF (b"" when there is none)."""
    lines = [line[5:] for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines)


def comment(name: str, payload: bytes) -> bytes:
    """`: penstock-<name> <payload>` as an event. Raises ValueError if it would not parse back."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"not a comment name: {name!r}")
    if b"\n" in payload or b"\r" in payload:
        raise ValueError("a comment's payload is one line")
    return b"%b%b %b\n\n" % (_COMMENT, name.encode("ascii"), payload)


def parse_comment(event: bytes) -> tuple[str, bytes] | None:
    """(name, payload) if the event is one of Penstock's comments, else None."""
    if not event.startswith(_COMMENT):
        return None
    line, *more = _LINE.split(event, maxsplit=1)
    name, space, payload = line[len(_COMMENT) :].partition(b" ")
    if not space or any(rest.strip(b"\r\n") for rest in more):
        return None
    text = name.decode("latin-1")
    return (text, payload) if _NAME.fullmatch(text) is not None else None
