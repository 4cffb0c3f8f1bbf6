"""Weights by digest: what names a model of one file, or of a folder of them.

One file is named by the SHA-256 of its bytes. A folder is named by the SHA-256 of its listing, and the
listing is itself a file: whoever hands it over, it proves itself, and then every file in it. So hubs,
mirrors and other miners need not be trusted.

A miner that asks another for a file signs the question, so that only members of the market are served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from re import compile as pattern

from penstock.spec.canon import canonical, from_plain, parse, to_plain
from penstock.spec.errors import BadMessage, Expired, NotCanonical
from penstock.spec.keys import Signed, Verify, open_signed

LISTING_HEAD = b"penstock/weights/v1\n"
"""The first line of every listing: no model's bytes start so."""
LISTING_BYTES_MAX = 2 << 20
FILES_MAX = 4_096
PATH_CHARS_MAX = 200
FILE_BYTES_MAX = 1 << 50

ASK_KIND = "weights-ask"
ASK_MS_MAX = 60_000
"""So long a question may be repeated: a download that breaks off asks anew."""

_PATH = pattern(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*(/[A-Za-z0-9_][A-Za-z0-9._+=-]*)*")
_SHA256 = pattern(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file: its place in the folder (`/` between parts), the digest of its bytes, their number."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WeightsAsk:
    """`miner` asks the miner at `host` (`name:port`, as in the request's Host) for one file."""

    miner: str
    host: str
    sha256: str
    issued_ms: int


def is_sha256(text: str) -> bool:
    """64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def is_weight_path(path: str) -> bool:
    """A relative path that means the same file on every system and leaves no folder: parts of
    letters, digits and `._+=-`, none of which starts with a dot or a hyphen.
    """
    return len(path) <= PATH_CHARS_MAX and _PATH.fullmatch(path) is not None


def spell_listing(files: Sequence[WeightFile]) -> bytes:
    """The listing of these files, in whatever order they come. Raises BadMessage as `read_listing`."""
    ordered = sorted(files, key=lambda file: file.path)
    _check_files(ordered)
    return LISTING_HEAD + canonical([to_plain(file) for file in ordered])


def read_listing(data: bytes) -> tuple[WeightFile, ...]:
    """The files of a listing, sorted by path. Raises BadMessage: another spelling of the same files,
    a path twice (or one that differs in case only), a file that is also a folder, a size or a number
    of files out of bounds.
    """
    if len(data) > LISTING_BYTES_MAX:
        raise _bad(f"a listing is at most {LISTING_BYTES_MAX} bytes")
    if not data.startswith(LISTING_HEAD):
        raise _bad("it is not a listing")
    try:
        plain = parse(data[len(LISTING_HEAD) :])
        files = from_plain(tuple[WeightFile, ...], plain)
    except NotCanonical as error:
        raise _bad(error.reason) from error
    if list(files) != sorted(files, key=lambda file: file.path):
        raise _bad("its files are not sorted by path")
    _check_files(files)
    return files


def listing_digest(files: Sequence[WeightFile]) -> str:
    """The hex digest that names the folder. Raises BadMessage."""
    return sha256(spell_listing(files)).hexdigest()


def check_weights_ask(
    signed: Signed, *, host: str, now_ms: int, skew_max_ms: int, verify: Verify
) -> WeightsAsk:
    """A fresh question to the miner at `host`, signed by the miner it names. Raises a SpecError.

    Edge: exactly `ASK_MS_MAX` old is still fresh. Who is served is the asked miner's to say.
    """
    ask = open_signed(WeightsAsk, signed, kind=ASK_KIND, verify=verify)
    if ask.miner != signed.signer:
        raise BadMessage(kind=ASK_KIND, reason="the signer is not the miner it names")
    if ask.host != host:
        raise BadMessage(kind=ASK_KIND, reason="it was asked of another miner")
    if not is_sha256(ask.sha256):
        raise BadMessage(kind=ASK_KIND, reason="it names no digest")
    if ask.issued_ms > now_ms + skew_max_ms:
        raise BadMessage(kind=ASK_KIND, reason="issued in the future: check the miner's clock")
    if now_ms > ask.issued_ms + ASK_MS_MAX:
        raise Expired(what=ASK_KIND, at_ms=ask.issued_ms + ASK_MS_MAX, now_ms=now_ms)
    return ask


def _check_files(files: Sequence[WeightFile]) -> None:
    if not 0 < len(files) <= FILES_MAX:
        raise _bad(f"a listing has 1 to {FILES_MAX} files")
    taken: set[str] = set()
    folders: set[str] = set()
    for file in files:
        if not is_weight_path(file.path):
            raise _bad(f"bad path {file.path[:80]!r}")
        if not is_sha256(file.sha256):
            raise _bad(f"{file.path} has no digest")
        if not 0 <= file.size_bytes <= FILE_BYTES_MAX:
            raise _bad(f"{file.path} has a size out of bounds")
        folded = file.path.lower()
        if folded in taken:
            raise _bad(f"{file.path} stands twice")
        taken.add(folded)
        parts = folded.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if taken & folders:
        raise _bad(f"{min(taken & folders)} is a file and a folder")


def _bad(reason: str) -> BadMessage:
    return BadMessage(kind="weights", reason=reason)
