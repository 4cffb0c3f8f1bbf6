"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

A checkpoint is the text by which a log commits to its size and root. The log signs it; witnesses
who saw that it only grows cosign it with the time. The formats are those of the Go checksum
database and Sigstore, so the tools of others read our logs. There is no cryptography here: the
signature functions come in and work on raw bytes (ed25519).
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import NoReturn

from penstock.spec.canon import INT_MAX
from penstock.spec.errors import BadNote
from penstock.spec.log import HASH_BYTES

NOTE_BYTES_MAX = 1 << 16
SIGNATURES_MAX = 100
KEY_ID_BYTES = 4
TIME_BYTES = 8

SignRaw = Callable[[bytes], bytes]
"""message -> signature."""

VerifyRaw = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it holds. Answers False, and never raises, for keys
and signatures of a wrong length."""


class Algorithm(Enum):
    """The first byte under a key id (C2SP signed-note, "Signature types")."""

    ED25519 = 1
    COSIGNATURE = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's commitment: its name, how many records, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{_to_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature: who, under which key, and the bytes (after a time, if a cosignature)."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text and who signed it."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def encode(self) -> bytes:
        """The bytes that are published."""
        lines = [
            f"\u2014 {line.name} {_to_base64(line.key_id + line.signature)}\n"
            for line in self.signatures
        ]
        return f"{self.text}\n{''.join(lines)}".encode()


def key_id(name: str, algorithm: Algorithm, *, public_key: bytes) -> bytes:
    """The four bytes by which a signature line names its key. A hint, not a proof."""
    named = name.encode() + b"\n" + bytes([algorithm.value]) + public_key
    return sha256(named).digest()[:KEY_ID_BYTES]


def sign_note(text: str, name: str, *, public_key: bytes, sign_raw: SignRaw) -> SignatureLine:
    """The log's own signature over a note's text."""
    return SignatureLine(
        name=name,
        key_id=key_id(name, Algorithm.ED25519, public_key=public_key),
        signature=sign_raw(text.encode()),
    )


def verify_note(note: Note, name: str, *, public_key: bytes, verify_raw: VerifyRaw) -> None:
    """The note carries a signature of this key. Raises BadNote.

    Lines of other names and keys are passed over, as the format asks; a line that names this key
    and does not hold condemns the note.
    """
    line = _line_of(note, name, named_key=key_id(name, Algorithm.ED25519, public_key=public_key))
    if not verify_raw(public_key, note.text.encode(), line.signature):
        raise BadNote(reason=f"the signature of {name} does not hold")


def cosigned_message(text: str, time_s: int) -> bytes:
    """What a witness signs: the checkpoint and when it was seen (seconds since 1970)."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign(
    text: str, name: str, *, public_key: bytes, time_s: int, sign_raw: SignRaw
) -> SignatureLine:
    """A witness's cosignature over a checkpoint's text."""
    return SignatureLine(
        name=name,
        key_id=key_id(name, Algorithm.COSIGNATURE, public_key=public_key),
        signature=time_s.to_bytes(TIME_BYTES, "big") + sign_raw(cosigned_message(text, time_s)),
    )


def verify_cosignature(note: Note, name: str, *, public_key: bytes, verify_raw: VerifyRaw) -> int:
    """When this witness saw the checkpoint (seconds since 1970). Raises BadNote."""
    line = _line_of(
        note, name, named_key=key_id(name, Algorithm.COSIGNATURE, public_key=public_key)
    )
    time_s = int.from_bytes(line.signature[:TIME_BYTES], "big")
    message = cosigned_message(note.text, time_s)
    if not verify_raw(public_key, message, line.signature[TIME_BYTES:]):
        raise BadNote(reason=f"the cosignature of {name} does not hold")
    return time_s


def parse_note(data: bytes) -> Note:
    """A signed note, strictly: one spelling only. Raises BadNote."""
    if len(data) > NOTE_BYTES_MAX:
        raise BadNote(reason=f"longer than {NOTE_BYTES_MAX} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise BadNote(reason="not UTF-8") from error
    if any(char < " " and char != "\n" for char in whole):
        raise BadNote(reason="a control character")
    text, gap, tail = whole.rpartition("\n\n")
    if not gap or not text:
        raise BadNote(reason="no text, or no empty line before the signatures")
    if not tail.endswith("\n"):
        raise BadNote(reason="the last line is not ended")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise BadNote(reason=f"more than {SIGNATURES_MAX} signatures")
    return Note(text=f"{text}\n", signatures=tuple(_parse_line(line) for line in lines))


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that a note's text states. Extension lines are refused: our logs write none.

    Raises BadNote.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise BadNote(reason="a checkpoint is three lines: origin, size, root")
    origin, digits, root = lines[:3]
    size = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 17 else -1
    if str(size) != digits or size > INT_MAX:
        raise BadNote(reason="the size is not a plain number")
    hashed = _from_base64(root)
    if len(hashed) != HASH_BYTES:
        raise BadNote(reason="the root is not one hash")
    return Checkpoint(origin=origin, size=size, root=hashed)


def verify_checkpoint(
    note: Note, origin: str, *, public_key: bytes, verify_raw: VerifyRaw
) -> Checkpoint:
    """The checkpoint of the log called `origin`, signed by its key. Raises BadNote."""
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise BadNote(reason=f"a checkpoint of another log, not of {origin}")
    verify_note(note, origin, public_key=public_key, verify_raw=verify_raw)
    return checkpoint


def _line_of(note: Note, name: str, *, named_key: bytes) -> SignatureLine:
    for line in note.signatures:
        if line.name == name and line.key_id == named_key:
            return line
    raise BadNote(reason=f"not signed by {name} with this key")


def _parse_line(line: str) -> SignatureLine:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014":
        _refuse_line(line)
    name, payload = parts[1], _from_base64(parts[2])
    if not name or "+" in name or any(char.isspace() for char in name):
        _refuse_line(line)
    if len(payload) <= KEY_ID_BYTES:
        _refuse_line(line)
    return SignatureLine(name=name, key_id=payload[:KEY_ID_BYTES], signature=payload[KEY_ID_BYTES:])


def _refuse_line(line: str) -> NoReturn:
    raise BadNote(reason=f"not a signature line: {line[:80]!r}")


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    """Standard base64 with padding; other spellings of the same bytes are refused."""
    try:
        data = b64decode(text, validate=True)
    except ValueError as error:
        raise BadNote(reason="not base64") from error
    if _to_base64(data) != text:
        raise BadNote(reason="not the plain spelling in base64")
    return data
