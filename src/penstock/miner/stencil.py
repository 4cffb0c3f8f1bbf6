"""Events of a stream that differ in their text alone: understood once, then cut out and passed on.

Nearly all events of an answer are one event with other words in it, and with other counts where the
engine tells them along the way. Reading each as JSON and writing it again costs ten times what it takes
to see that it is the same one. A stencil is learned from an event that was read in full, with what
became of it; what does not fit the stencil byte for byte is read in full as ever. Both ways give the same
bytes: the text has only what JSON's writer leaves as it is.
"""

import re
from dataclasses import dataclass, field

import msgspec

_DATA, _END = b"data: ", b"\n\n"
_TEXT = re.compile(rb'(?:[^"\\\x00-\x1f]|\\["\\bfnrt])+')
"""The inside of a JSON text that is spelled as `msgspec` spells it."""
_TEXTS = re.compile(rb'(?:(?:[^"\\\x00-\x1f]++|\\["\\bfnrt])++\n)++')
"""Such texts, each with a line end behind it; none has one inside."""
_NUMBER = rb"(?:-?[0-9][0-9.eE+-]*|null)"
_FLAT = rb'\{(?:"[a-z_]+": ?' + _NUMBER + rb"(?:, ?(?!\}))?)*\}"
_COUNTS = re.compile(rb'\{(?:"[a-z_]+": ?(?:' + _NUMBER + rb"|" + _FLAT + rb")(?:, ?(?!\}))?)*\}")
"""An object of numbers, or of such objects."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Told:
    """What was read in full: the client's event for it, the text in it, the field it stands in, and the
    field that told counts, "" if none did.
    """

    shown: bytes
    key: str
    text: str
    counts_field: str


@dataclass(frozen=True, slots=True)
class Run:
    """Events in a row, each with content. `counts` are the JSON values of the counts they told, one each
    or none at all.
    """

    head: bytes
    tail: bytes
    texts: list[bytes]
    counts_field: str = ""
    counts: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def data(self, start: int, end: int) -> bytes:
        """What the client gets for the events from `start` to before `end`."""
        return self.head + (self.tail + self.head).join(self.texts[start:end]) + self.tail


@dataclass(frozen=True, slots=True)
class Stencil:
    """What stands around the text in an event of the engine, and in the client's."""

    head_in: bytes
    tail_in: bytes
    end_in: bytes
    """Behind the counts; b"" where none are told."""
    head: bytes
    tail: bytes
    counts_field: str

    def run(self, data: bytes, start: int) -> tuple[Run | None, int]:
        """(the events from `start` on that fit, where they end); (None, start) for none."""
        if not self.end_in:
            texts, end = self._cut(data, start)
            if texts:
                return Run(self.head, self.tail, texts), end
        return self._walk(data, start)

    def _cut(self, data: bytes, start: int) -> tuple[list[bytes], int]:
        """The texts of all events at once, if all up to the last one fit; else none."""
        head_in, tail_in = self.head_in, self.tail_in
        end = data.rfind(tail_in, start)
        if end < 0 or not data.startswith(head_in, start):
            return [], start
        texts = data[start + len(head_in) : end].split(tail_in + head_in)
        joined = b"\n".join(texts) + b"\n"
        if _TEXTS.fullmatch(joined) is None or not (joined.isascii() or _is_utf8(joined)):
            return [], start
        return texts, end + len(tail_in)

    def _walk(self, data: bytes, start: int) -> tuple[Run | None, int]:
        """One event after another, as far as they fit."""
        head_in, tail_in, end_in = self.head_in, self.tail_in, self.end_in
        texts: list[bytes] = []
        counts: list[bytes] = []
        at = start
        while data.startswith(head_in, at):
            text = _TEXT.match(data, at + len(head_in))
            if text is None or not data.startswith(tail_in, text.end()):
                break
            said = text[0]
            if not said.isascii() and not _is_utf8(said):
                break
            end = text.end() + len(tail_in)
            if end_in:
                told = _COUNTS.match(data, end)
                if told is None or not data.startswith(end_in, told.end()):
                    break
                counts.append(told[0])
                end = told.end() + len(end_in)
            texts.append(said)
            at = end
        if not texts:
            return None, start
        return Run(self.head, self.tail, texts, self.counts_field, counts), at


def learn(event: bytes, told: Told) -> Stencil | None:
    """The stencil of an event; None where its text or its counts cannot be told from the rest."""
    text = _encode(told.text)
    if _TEXT.fullmatch(text, 1, len(text) - 1) is None:
        return None
    if not event.startswith(_DATA) or event.find(b"\n") != len(event) - 2 or b"\r" in event:
        return None
    came, shown = _around(event, told.key, text), _around(told.shown, told.key, text)
    if came is None or shown is None:
        return None
    tail_in, end_in = came[1], b""
    if told.counts_field:
        parts = _around_counts(tail_in, told.counts_field)
        if parts is None or b'"%b"' % told.counts_field.encode() in told.shown:
            return None
        tail_in, end_in = parts
    return Stencil(came[0], tail_in, end_in, shown[0], shown[1], told.counts_field)


def _around(event: bytes, key: str, text: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and behind the text, quotes included, if it stands there once."""
    for between in (b":", b": "):
        place = b'"%b"%b%b' % (key.encode(), between, text)
        if event.count(place) == 1:
            before, _, behind = event.partition(place)
            return before + place[: 1 - len(text)], b'"' + behind
    return None


def _around_counts(tail: bytes, name: str) -> tuple[bytes, bytes] | None:
    found = re.search(rb'"%b": ?' % name.encode(), tail)
    counts = None if found is None else _COUNTS.match(tail, found.end())
    if found is None or counts is None:
        return None
    return tail[: found.end()], tail[counts.end() :]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
