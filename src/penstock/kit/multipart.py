"""Uploads: `multipart/form-data` taken apart and put together again (RFC 7578, RFC 2046 5.1).

The boundary is read from the body's own first line, not from the `content-type` header: an order
signs the body's bytes, so everything that decides their meaning must stand in them. No client that
sends forms puts a preamble before the first boundary.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PARTS_MAX = 64
PART_HEAD_BYTES_MAX = 4_096
BOUNDARY_BYTES_MAX = 70

_BOUNDARY = re.compile(rb"--([0-9A-Za-z'()+_,\-./:=? ]{1,70})\r\n")
_NAME = re.compile(rb'(?:^|[;\s])name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(rb'[;\s]filename\*?="?((?:[^"\\;]|\\.)*)"?', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition:(.*)$", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^content-type:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class BadMultipart(Exception):
    """The bytes are no form; `reason` says why, as the end of a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form. `filename` is None for a plain value. `head` are its headers as sent."""

    name: str
    filename: str | None
    content_type: str
    head: bytes
    data: bytes

    def text(self) -> str:
        """The value as text. Raises BadMultipart."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise BadMultipart(f"the field {self.name!r} is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class Form:
    """A form's parts in their order, and the boundary between them."""

    boundary: bytes
    parts: tuple[Part, ...]

    def texts(self) -> dict[str, str]:
        """The plain fields; of a repeated one the last, as in JSON. Raises BadMultipart."""
        return {part.name: part.text() for part in self.parts if part.filename is None}

    def file(self, name: str) -> Part | None:
        """The first uploaded file of that name."""
        named = (part for part in self.parts if part.name == name and part.filename is not None)
        return next(named, None)

    def content_type(self) -> str:
        """The header that belongs to `body`."""
        return f'multipart/form-data; boundary="{self.boundary.decode("ascii")}"'

    def body(self) -> bytes:
        """The bytes of the form."""
        chunks: list[bytes] = []
        for part in self.parts:
            chunks += (b"--", self.boundary, b"\r\n", part.head, b"\r\n\r\n", part.data, b"\r\n")
        chunks += (b"--", self.boundary, b"--\r\n")
        return b"".join(chunks)

    def with_texts(self, changes: Mapping[str, str | None]) -> "Form":
        """The form with these plain fields instead of all of theirs; None leaves a field out."""
        kept = [part for part in self.parts if part.name not in changes]
        added = [text_part(name, value) for name, value in changes.items() if value is not None]
        return Form(self.boundary, tuple(kept + added))


def text_part(name: str, value: str) -> Part:
    """A plain field."""
    head = f'Content-Disposition: form-data; name="{name}"'.encode()
    return Part(name=name, filename=None, content_type="", head=head, data=value.encode())


def file_part(name: str, filename: str, data: bytes, *, content_type: str) -> Part:
    """An uploaded file."""
    head = (
        f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        f"Content-Type: {content_type}"
    ).encode()
    return Part(name=name, filename=filename, content_type=content_type, head=head, data=data)


def form_of(parts: Iterable[Part], *, boundary: bytes = b"penstock-form-boundary") -> Form:
    """A new form. The boundary must not occur in the parts; ours does not in audio."""
    return Form(boundary=boundary, parts=tuple(parts))


def parse_multipart(body: bytes) -> Form:
    """The form in these bytes. Raises BadMultipart."""
    boundary, at = boundary_of(body)
    between = b"\r\n--" + boundary
    parts: list[Part] = []
    while True:
        end = body.find(between, at)
        if end < 0:
            raise BadMultipart("its last boundary is missing")
        if len(parts) == PARTS_MAX:
            raise BadMultipart(f"it has more than {PARTS_MAX} parts")
        parts.append(_part(body, at, end))
        at = end + len(between)
        if body[at : at + 2] == b"--":
            return Form(boundary=boundary, parts=tuple(parts))
        if body[at : at + 2] != b"\r\n":
            raise BadMultipart("a boundary line goes on behind the boundary")
        at += 2


def boundary_of(body: bytes) -> tuple[bytes, int]:
    """The boundary in the body's first line, and where that line ends. Raises BadMultipart."""
    opening = _BOUNDARY.match(body)
    if opening is None:
        raise BadMultipart("it does not start with a boundary line")
    return opening[1], opening.end()


def _part(body: bytes, start: int, end: int) -> Part:
    split = body.find(b"\r\n\r\n", start, min(end, start + PART_HEAD_BYTES_MAX))
    if split < 0:
        raise BadMultipart("a part has no headers, or too long ones")
    return part_of(body[start:split], body[split + 4 : end])


def part_of(head: bytes, data: bytes = b"") -> Part:
    """A part by its headers. Raises BadMultipart."""
    disposition = _DISPOSITION.search(head)
    name = _NAME.search(disposition[1]) if disposition else None
    if disposition is None or name is None:
        raise BadMultipart("a part has no name")
    filename = _FILENAME.search(disposition[1])
    kind = _TYPE.search(head)
    return Part(
        name=_shown(name[1]),
        filename=_shown(filename[1]) if filename else None,
        content_type=_shown(kind[1]).strip() if kind else "",
        head=head,
        data=data,
    )


def _shown(value: bytes) -> str:
    return value.decode(errors="replace")
