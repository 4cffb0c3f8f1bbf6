"""An operator's published files, read as from a stranger: every byte is checked on the way in.

Nothing is believed that is not signed or under a signed root, and nothing has two spellings: a
changed byte is always seen, even where it would change no meaning.
"""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from penstock.client.errors import Difference
from penstock.client.segments import Leaf, SegmentFile, same
from penstock.spec.canon import parse
from penstock.spec.entries import parse_leaf
from penstock.spec.errors import SpecError
from penstock.spec.keys import check_identity
from penstock.spec.log import HASH_BYTES, Frontier, check_inclusion, leaf_hash
from penstock.spec.notes import Checkpoint, VerifyRaw, parse_note, verify_checkpoint

SEGMENT_BYTES_MAX = 4 << 30


class Source(Protocol):
    """Where published files come from: a folder, or an operator's `/files/`."""

    async def get(self, name: str) -> bytes:
        """The whole file. Raises NotPublished, or Unreachable."""
        ...


@dataclass(frozen=True, slots=True)
class Operator:
    """Whose log this is."""

    origin: str
    log_key: str
    operator: str
    network: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was logged about an epoch after its close: its charter, reports and settlement."""

    epoch: int
    checkpoint: Checkpoint
    leaves: tuple[Leaf, ...]


def epoch_folder(epoch: int) -> str:
    return f"epochs/{epoch:08d}"


async def read_operator(source: Source) -> Operator:
    """Raises NotPublished or Difference."""
    value = _object("operator.json", await source.get("operator.json"))
    names = ("origin", "log_key", "operator", "network")
    if set(value) != set(names) or not all(isinstance(value[name], str) for name in names):
        raise Difference("operator.json", "other fields", ", ".join(names))
    try:
        check_identity(value["log_key"])
    except SpecError as error:
        raise Difference("operator.json: log_key", "no identity", "an identity") from error
    if not value["log_key"].startswith("ed25519:"):
        raise Difference("operator.json: log_key", value["log_key"], "an ed25519 identity")
    return Operator(**{name: value[name] for name in names})


async def read_checkpoint(source: Source, operator: Operator, verify_raw: VerifyRaw) -> Checkpoint:
    """The newest checkpoint. Raises NotPublished or Difference."""
    return _checkpoint(
        "checkpoint", await source.get("checkpoint"), operator=operator, verify_raw=verify_raw
    )


async def read_segment_file(
    source: Source, epoch: int, *, operator: Operator, verify_raw: VerifyRaw
) -> SegmentFile:
    """One epoch's files; SegmentReading checks what they hold. Raises NotPublished, Difference."""
    where = f"{epoch_folder(epoch)}/epoch.json"
    about = _object(where, await source.get(where))
    expected = {"epoch", "first_seq", "count", "segment_sha256", "frontier", "checkpoint"}
    if set(about) != expected:
        raise Difference(where, "other fields", ", ".join(sorted(expected)))
    same(f"{where}: epoch", about["epoch"], epoch)
    checkpoint = _checkpoint(
        f"{where}: checkpoint",
        str(about["checkpoint"]).encode(),
        operator=operator,
        verify_raw=verify_raw,
    )
    start = _frontier(f"{where}: frontier", about["frontier"])
    same(f"{where}: first_seq", about["first_seq"], start.size)
    same(f"{where}: count", about["count"], checkpoint.size - start.size)
    data = await source.get(f"{epoch_folder(epoch)}/segment.parquet")
    if len(data) > SEGMENT_BYTES_MAX:
        raise Difference(
            f"{epoch_folder(epoch)}/segment.parquet",
            f"{len(data)} bytes",
            f"at most {SEGMENT_BYTES_MAX}",
        )
    same(f"{where}: segment_sha256", about["segment_sha256"], sha256(data).hexdigest())
    return SegmentFile(
        epoch=epoch, start=start, count=about["count"], checkpoint=checkpoint, data=data
    )


async def read_outcome(
    source: Source, epoch: int, *, operator: Operator, verify_raw: VerifyRaw
) -> Outcome:
    """Charter, reports and settlement of an epoch, each proven to be in the log, in its order."""
    where = f"{epoch_folder(epoch)}/outcome.json"
    value = _object(where, await source.get(where))
    if set(value) != {"epoch", "checkpoint", "entries"} or not isinstance(value["entries"], list):
        raise Difference(where, "other fields", "epoch, checkpoint, entries")
    same(f"{where}: epoch", value["epoch"], epoch)
    checkpoint = _checkpoint(
        f"{where}: checkpoint",
        str(value["checkpoint"]).encode(),
        operator=operator,
        verify_raw=verify_raw,
    )
    leaves: list[Leaf] = []
    for index, item in enumerate(value["entries"]):
        place = f"{where}: entries[{index}]"
        leaf = _proven(place, item, checkpoint)
        if leaves and leaf.seq <= leaves[-1].seq:
            raise Difference(f"{place}: seq", str(leaf.seq), f"above {leaves[-1].seq}")
        leaves.append(leaf)
    return Outcome(epoch, checkpoint, tuple(leaves))


def _proven(where: str, item: Any, checkpoint: Checkpoint) -> Leaf:
    if not isinstance(item, dict) or set(item) != {"seq", "leaf", "proof"}:
        raise Difference(where, "another shape", "seq, leaf, proof")
    seq, text, siblings = item["seq"], item["leaf"], item["proof"]
    if type(seq) is not int or not isinstance(text, str) or not isinstance(siblings, list):
        raise Difference(where, "another shape", "seq, leaf, proof")
    try:
        data = b64decode(text, validate=True)
        entry = parse_leaf(data)
        check_inclusion(
            leaf_hash(data),
            seq,
            size=checkpoint.size,
            proof=[_hash(one) for one in siblings],
            expected=checkpoint.root,
        )
    except (SpecError, ValueError) as error:
        raise Difference(where, f"unproven ({error})", "an entry of the log") from error
    same(f"{where}: leaf", text, b64encode(data).decode())
    return Leaf(seq, data, entry, None)


def _hash(value: object) -> bytes:
    """A hash in its one spelling, lower-case hex. Raises ValueError."""
    data = bytes.fromhex(value) if isinstance(value, str) else b""
    if len(data) != HASH_BYTES or data.hex() != value:
        raise ValueError("not a hash in lower-case hex")
    return data


def _object(where: str, data: bytes) -> dict[str, Any]:
    try:
        value = parse(data)
    except SpecError as error:
        raise Difference(where, f"other bytes ({error})", "canonical JSON") from error
    if not isinstance(value, dict):
        raise Difference(where, "another shape", "an object")
    return value


def _checkpoint(
    where: str, data: bytes, *, operator: Operator, verify_raw: VerifyRaw
) -> Checkpoint:
    try:
        public_key = bytes.fromhex(operator.log_key.partition(":")[2])
        return verify_checkpoint(
            parse_note(data), operator.origin, public_key=public_key, verify_raw=verify_raw
        )
    except SpecError as error:
        raise Difference(
            where, f"not signed by the log ({error})", "a signed checkpoint"
        ) from error


def _frontier(where: str, value: Any) -> Frontier:
    if not isinstance(value, dict) or set(value) != {"size", "roots"}:
        raise Difference(where, "another shape", "size and roots")
    size, roots = value["size"], value["roots"]
    if type(size) is not int or size < 0 or not isinstance(roots, list):
        raise Difference(where, "another shape", "size and roots")
    try:
        hashes = tuple(_hash(one) for one in roots)
    except ValueError as error:
        raise Difference(f"{where}: roots", str(error), "hashes") from error
    same(f"{where}: number of roots", len(hashes), size.bit_count())
    return Frontier(size, hashes)
