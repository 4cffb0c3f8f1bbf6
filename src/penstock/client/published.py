"""An operator's published files, read as from a stranger: every byte is checked on the way in.

A segment is authenticated by the signed checkpoint at its end: the leaves, appended to the frontier
at its start, must give the signed root. Nothing else in a segment is believed; the flat columns are
compared with the leaves by the audit.
"""

from base64 import b64decode
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Protocol

from penstock.client.errors import Difference
from penstock.spec.canon import parse
from penstock.spec.entries import Entry, EntryKind, Row, leaf_bytes, parse_leaf
from penstock.spec.errors import SpecError
from penstock.spec.log import HASH_BYTES, Frontier, check_inclusion, leaf_hash
from penstock.spec.notes import Checkpoint, VerifyRaw, parse_note, verify_checkpoint

ROW_COLUMNS = tuple(field.name for field in fields(Row))
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
class Leaf:
    """One entry of the log with its position, and the flat row published beside it (records only)."""

    seq: int
    data: bytes
    entry: Entry
    row: Row | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One epoch's entries under a checkpoint that holds."""

    epoch: int
    first_seq: int
    leaves: tuple[Leaf, ...]
    start: Frontier
    end: Frontier
    checkpoint: Checkpoint


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
    if not value["log_key"].startswith("ed25519:"):
        raise Difference(
            "operator.json: log_key", str(value["log_key"])[:80], "an ed25519 identity"
        )
    return Operator(**{name: value[name] for name in names})


async def read_checkpoint(source: Source, operator: Operator, verify_raw: VerifyRaw) -> Checkpoint:
    """The newest checkpoint. Raises NotPublished or Difference."""
    return _checkpoint("checkpoint", await source.get("checkpoint"), operator, verify_raw)


async def read_segment(
    source: Source, epoch: int, *, operator: Operator, verify_raw: VerifyRaw
) -> Segment:
    """One epoch, authenticated. Raises NotPublished, or Difference naming the first bad place."""
    where = f"{epoch_folder(epoch)}/epoch.json"
    about = _object(where, await source.get(where))
    expected = {"epoch", "first_seq", "count", "segment_sha256", "frontier", "checkpoint"}
    if set(about) != expected:
        raise Difference(where, "other fields", ", ".join(sorted(expected)))
    same(f"{where}: epoch", about["epoch"], epoch)
    checkpoint = _checkpoint(
        f"{where}: checkpoint", str(about["checkpoint"]).encode(), operator, verify_raw
    )
    start = _frontier(f"{where}: frontier", about["frontier"])
    same(f"{where}: first_seq", about["first_seq"], start.size)
    name = f"{epoch_folder(epoch)}/segment.parquet"
    data = await source.get(name)
    same(f"{where}: segment_sha256", about["segment_sha256"], sha256(data).hexdigest())
    leaves = _leaves(name, data, start.size)
    same(f"{where}: count", about["count"], len(leaves))
    end = start
    for leaf in leaves:
        end = end.append(leaf_hash(leaf.data))
    same(f"{where}: checkpoint size", checkpoint.size, end.size)
    same(f"{name}: log root", checkpoint.root.hex(), end.root().hex())
    return Segment(epoch, start.size, leaves, start, end, checkpoint)


async def read_outcome(
    source: Source, epoch: int, *, operator: Operator, verify_raw: VerifyRaw
) -> Outcome:
    """Charter, reports and settlement of an epoch, each proven to be in the log."""
    where = f"{epoch_folder(epoch)}/outcome.json"
    value = _object(where, await source.get(where))
    if set(value) != {"epoch", "checkpoint", "entries"} or not isinstance(value["entries"], list):
        raise Difference(where, "other fields", "epoch, checkpoint, entries")
    same(f"{where}: epoch", value["epoch"], epoch)
    checkpoint = _checkpoint(
        f"{where}: checkpoint", str(value["checkpoint"]).encode(), operator, verify_raw
    )
    leaves = tuple(
        _proven(f"{where}: entries[{index}]", item, checkpoint)
        for index, item in enumerate(value["entries"])
    )
    return Outcome(epoch, checkpoint, leaves)


def _proven(where: str, item: Any, checkpoint: Checkpoint) -> Leaf:
    if not isinstance(item, dict) or set(item) != {"seq", "leaf", "proof"}:
        raise Difference(where, "another shape", "seq, leaf, proof")
    try:
        data = b64decode(item["leaf"], validate=True)
        proof = [bytes.fromhex(part) for part in item["proof"]]
        entry = parse_leaf(data)
        check_inclusion(
            leaf_hash(data),
            item["seq"],
            size=checkpoint.size,
            proof=proof,
            expected=checkpoint.root,
        )
    except (SpecError, ValueError, TypeError) as error:
        raise Difference(where, f"unproven ({error})", "an entry of the log") from error
    return Leaf(item["seq"], data, entry, None)


def _leaves(name: str, data: bytes, first_seq: int) -> tuple[Leaf, ...]:
    """The rows of a Parquet segment. Raises Difference."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(data) > SEGMENT_BYTES_MAX:
        raise Difference(name, f"{len(data)} bytes", f"at most {SEGMENT_BYTES_MAX}")
    columns = ("seq", "kind", "entry_id", "leaf", *ROW_COLUMNS)
    try:
        table = pq.read_table(pa.BufferReader(data))
        if tuple(table.column_names) != columns:
            raise Difference(name, f"columns {table.column_names}", ", ".join(columns))
        values = [table.column(column).to_pylist() for column in columns]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Difference(name, "not a readable Parquet file", "a segment") from error
    return tuple(
        _leaf(f"{name}: row {index}", first_seq + index, row)
        for index, row in enumerate(zip(*values, strict=True))
    )


def _leaf(where: str, seq: int, values: tuple[Any, ...]) -> Leaf:
    said_seq, kind, entry_id, data, *flat = values
    same(f"{where}: seq", said_seq, seq)
    if not isinstance(data, bytes):
        raise Difference(where, "no leaf", "bytes")
    try:
        entry = parse_leaf(data)
    except SpecError as error:
        raise Difference(where, f"a bad leaf ({error})", "an entry") from error
    same(f"{where}: kind", kind, entry.kind.value)
    same(f"{where}: entry_id", entry_id, entry.entry_id)
    assert leaf_bytes(entry) == data, "parse_leaf accepts one spelling only"
    if entry.kind is EntryKind.RECORD:
        if any(value is None for value in flat):
            raise Difference(where, "a record without its row", "a row")
        return Leaf(seq, data, entry, Row(*flat))
    if any(value is not None for value in flat):
        raise Difference(where, "a row", "none, for this is no record")
    return Leaf(seq, data, entry, None)


def _object(where: str, data: bytes) -> dict[str, Any]:
    try:
        value = parse(data)
    except SpecError as error:
        raise Difference(where, f"other bytes ({error})", "canonical JSON") from error
    if not isinstance(value, dict):
        raise Difference(where, "another shape", "an object")
    return value


def _checkpoint(where: str, data: bytes, operator: Operator, verify_raw: VerifyRaw) -> Checkpoint:
    try:
        public_key = bytes.fromhex(operator.log_key.partition(":")[2])
        return verify_checkpoint(
            parse_note(data), operator.origin, public_key=public_key, verify_raw=verify_raw
        )
    except (SpecError, ValueError) as error:
        raise Difference(
            where, f"not signed by the log ({error})", "a signed checkpoint"
        ) from error


def _frontier(where: str, value: Any) -> Frontier:
    try:
        size = value["size"]
        roots = tuple(bytes.fromhex(root) for root in value["roots"])
    except (KeyError, TypeError, ValueError) as error:
        raise Difference(where, "another shape", "size and roots") from error
    wellformed = isinstance(size, int) and size >= 0 and len(roots) == size.bit_count()
    if not wellformed or any(len(root) != HASH_BYTES for root in roots):
        raise Difference(where, "roots that do not fit the size", "one root per bit of the size")
    return Frontier(size, roots)


def same(where: str, published: object, recomputed: object) -> None:
    if published != recomputed or type(published) is not type(recomputed):
        raise Difference(where, str(published)[:120], str(recomputed)[:120])
