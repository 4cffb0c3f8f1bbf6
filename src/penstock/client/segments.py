"""An epoch's entries as published: Parquet under a signed checkpoint, read batch by batch.

A segment is authenticated by the checkpoint at its end: the leaves, appended to the frontier at its
start, must give the signed root. Of the columns only `leaf` is under that root. `seq`, `kind` and
`entry_id` are compared with the leaves here; the columns of a record's row by whoever judges it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from penstock.client.errors import Difference
from penstock.spec.canon import from_plain
from penstock.spec.entries import Close, Entry, EntryKind, Row, parse_leaf
from penstock.spec.errors import SpecError
from penstock.spec.log import Frontier, leaf_hash
from penstock.spec.notes import Checkpoint

BATCH_ROWS = 4_096
PLAIN_COLUMNS = ("seq", "kind", "entry_id", "leaf")
ROW_COLUMNS = tuple(each.name for each in fields(Row))
COLUMN_TYPES = {
    "seq": "int64",
    "kind": "string",
    "entry_id": "string",
    "leaf": "binary",
    **{each.name: "int64" if each.type is int else "string" for each in fields(Row)},
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One entry of the log with its position, and the flat row published beside it (records only)."""

    seq: int
    data: bytes
    entry: Entry
    row: Row | None


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """An epoch's files as fetched: checkpoint and digest hold, the entries are not read yet."""

    epoch: int
    start: Frontier
    count: int
    checkpoint: Checkpoint
    data: bytes

    @property
    def name(self) -> str:
        return f"epochs/{self.epoch:08d}/segment.parquet"


@dataclass(frozen=True, slots=True)
class Segment:
    """One epoch's entries under a checkpoint that holds."""

    epoch: int
    leaves: tuple[Leaf, ...]
    start: Frontier
    end: Frontier
    checkpoint: Checkpoint
    previous: int
    """The epoch closed before this one; -1 at first."""


@dataclass(slots=True)
class SegmentReading:
    """Iterate it to the end: it then has found that the entries are those that were signed.

    Raises Difference on the way, or at the end. `end` and `previous` are known at the end.
    """

    file: SegmentFile
    end: Frontier = field(init=False)
    previous: int = field(init=False, default=-1)
    _last: Leaf | None = field(init=False, default=None)
    _closes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.end = self.file.start

    def __iter__(self) -> Iterator[list[Leaf]]:
        file = self.file
        for values in _batches(file):
            batch = []
            for row in zip(*values, strict=True):
                leaf = _leaf(file, self.end.size, row)
                self.end = self.end.append(leaf_hash(leaf.data))
                self._last = leaf
                self._closes += leaf.entry.kind is EntryKind.CLOSE
                batch.append(leaf)
            yield batch
        about = f"epochs/{file.epoch:08d}/epoch.json"
        same(f"{about}: checkpoint size", file.checkpoint.size, self.end.size)
        same(f"{file.name}: log root", file.checkpoint.root.hex(), self.end.root().hex())
        self.previous = self._close().previous

    def _close(self) -> Close:
        """The last entry, which must be the close of this epoch and the only one."""
        where = f"epoch {self.file.epoch}: last entry"
        last = self._last
        if last is None or last.entry.kind is not EntryKind.CLOSE or self._closes != 1:
            raise Difference(where, f"{self._closes} closes", "one close, as the last entry")
        try:
            close = from_plain(Close, last.entry.body)
        except SpecError as error:
            raise Difference(where, f"malformed ({error})", "a close") from error
        same(f"{where}: epoch", close.epoch, self.file.epoch)
        if not -1 <= close.previous < close.epoch:
            raise Difference(f"{where}: previous", str(close.previous), "an earlier epoch")
        if close.previous == -1:
            # Nothing was closed before: then nothing was logged before either.
            same(f"{where}: previous: entries before", self.file.start.size, 0)
        return close


def read_whole(file: SegmentFile) -> Segment:
    """All entries at once. Raises Difference naming the first bad place."""
    reading = SegmentReading(file)
    leaves = tuple(leaf for batch in reading for leaf in batch)
    return Segment(
        epoch=file.epoch,
        leaves=leaves,
        start=file.start,
        end=reading.end,
        checkpoint=file.checkpoint,
        previous=reading.previous,
    )


def same(where: str, published: object, recomputed: object) -> None:
    """Equal, and of one type. Raises Difference."""
    if published != recomputed or type(published) is not type(recomputed):
        raise Difference(where, str(published)[:120], str(recomputed)[:120])


def _batches(file: SegmentFile) -> Iterator[list[list[Any]]]:
    """Columns as lists, a batch at a time. Raises Difference.

    The shape is checked before a value is read, so that a hostile file cannot bring in others.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = (pa.ArrowException, OSError, ValueError, OverflowError)
    try:
        with pq.ParquetFile(pa.BufferReader(file.data)) as parquet:
            found = [(one.name, str(one.type)) for one in parquet.schema_arrow]
            same(f"{file.name}: columns", found, list(COLUMN_TYPES.items()))
            same(f"{file.name}: rows", parquet.metadata.num_rows, file.count)
            for batch in parquet.iter_batches(BATCH_ROWS, use_threads=False):
                yield [column.to_pylist() for column in batch.columns]
    except broken as error:
        raise Difference(file.name, f"not readable ({error})"[:120], "a Parquet file") from error


def _leaf(file: SegmentFile, seq: int, values: tuple[Any, ...]) -> Leaf:
    where = f"{file.name}: row {seq - file.start.size}"
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
    if entry.kind is EntryKind.RECORD:
        if any(value is None for value in flat):
            raise Difference(where, "a record without its row", "a row")
        return Leaf(seq, data, entry, Row(*flat))
    if any(value is not None for value in flat):
        raise Difference(where, "a row", "none, for this is no record")
    return Leaf(seq, data, entry, None)
