"""What the world reads: Parquet segments, epoch and outcome files, the newest checkpoint.

Everything is made from what the store has committed, so a file that could not be written (a full
disk, a crash) is simply made again; the same log gives the same bytes. An epoch counts as published
only when all of its files are durable. JSON files are canonical bytes.
"""

import base64
import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

from penstock.kit.ports import Files
from penstock.ledger.notary import Notary
from penstock.ledger.ports import LogReading
from penstock.ledger.state import ENTRIES_PAGE_MAX, EpochState, Logged
from penstock.spec.canon import canonical
from penstock.spec.entries import Row
from penstock.spec.log import Frontier

ROW_GROUP_ROWS = 65_536
COMPRESSION_LEVEL = 3
CHECKPOINT_FILE = "checkpoint"
OPERATOR_FILE = "operator.json"

ROW_COLUMNS = tuple((field.name, field.type) for field in fields(Row))
PLAIN_COLUMNS = ("seq", "kind", "entry_id", "leaf")


@dataclass(frozen=True, slots=True)
class Publisher:
    """Writes through the Files port. Raises DiskFull and StoreDown; then nothing is lost."""

    files: Files
    log: LogReading
    notary: Notary

    def write_operator(self, about: dict[str, str]) -> None:
        """`operator.json`: who runs this log and with which key."""
        self.files.write(OPERATOR_FILE, canonical(about))

    async def publish(self, state: EpochState) -> None:
        """The segment of a closed epoch, then `epoch.json`, then the checkpoint at its end."""
        assert state.close_seq >= state.first_seq, "only closed epochs are published"
        count = state.close_seq - state.first_seq + 1
        segment = await self._segment(state.first_seq, count)
        begin = await self.notary.frontier_at(state.first_seq)
        note = self.notary.checkpoint(await self.notary.frontier_at(state.close_seq + 1))
        about = {
            "epoch": state.epoch,
            "first_seq": state.first_seq,
            "count": count,
            "segment_sha256": hashlib.sha256(segment).hexdigest(),
            "frontier": {"size": begin.size, "roots": [root.hex() for root in begin.roots]},
            "checkpoint": note,
        }
        self.files.write(segment_file(state.epoch), segment)
        self.files.write(epoch_file(state.epoch), canonical(about))
        self.files.write(CHECKPOINT_FILE, note.encode())

    async def publish_outcome(
        self, epoch: int, entries: Sequence[Logged], *, frontier: Frontier
    ) -> None:
        """`outcome.json`: charter, reports and settlement, proven under this state of the log."""
        proven = await self.notary.prove(tuple(one.seq for one in entries), frontier)
        listed = [
            {
                "seq": one.seq,
                "leaf": base64.b64encode(one.leaf).decode(),
                "proof": [sibling.hex() for sibling in proof],
            }
            for one, proof in zip(entries, proven.proofs, strict=True)
        ]
        about = {"epoch": epoch, "checkpoint": proven.checkpoint, "entries": listed}
        self.files.write(outcome_file(epoch), canonical(about))
        self.files.write(CHECKPOINT_FILE, proven.checkpoint.encode())

    async def _segment(self, first_seq: int, count: int) -> bytes:
        """The Parquet bytes, a row group at a time, so that only the compressed form is whole."""
        # Imported when first needed: it takes half a second and no request path uses it.
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema()
        sink = io.BytesIO()
        with pq.ParquetWriter(
            sink,
            schema,
            version="2.6",
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            data_page_version="1.0",
            use_dictionary=["kind", "chute", "instance", "miner", "outcome"],
            store_schema=False,
        ) as writer:
            for start in range(0, count, ROW_GROUP_ROWS):
                size = min(ROW_GROUP_ROWS, count - start)
                group = await self._read(first_seq + start, size)
                columns = _columns(group)
                table = pa.table(columns, schema=schema)
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        return sink.getvalue()

    async def _read(self, first_seq: int, count: int) -> list[Logged]:
        group: list[Logged] = []
        while len(group) < count:
            wanted = min(ENTRIES_PAGE_MAX, count - len(group))
            page = await self.log.entries(first_seq + len(group), count=wanted)
            assert page, "a closed epoch has all of its entries"
            group.extend(page)
        assert [one.seq for one in group] == list(
            itertools.islice(itertools.count(first_seq), count)
        )
        return group


def segment_file(epoch: int) -> str:
    """Where an epoch's entries are published."""
    return f"epochs/{epoch:08d}/segment.parquet"


def epoch_file(epoch: int) -> str:
    """Where an epoch's extent and checkpoint are published."""
    return f"epochs/{epoch:08d}/epoch.json"


def outcome_file(epoch: int) -> str:
    """Where an epoch's settlement is published."""
    return f"epochs/{epoch:08d}/outcome.json"


def _schema() -> "object":
    import pyarrow as pa

    plain = [("seq", pa.int64()), ("kind", pa.string())]
    plain += [("entry_id", pa.string()), ("leaf", pa.binary())]
    types = {int: pa.int64(), str: pa.string()}
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in plain]
        + [pa.field(name, types[kind]) for name, kind in _row_types()]
    )


def _row_types() -> list[tuple[str, type]]:
    return [(name, kind) for name, kind in ROW_COLUMNS if isinstance(kind, type)]


def _columns(group: Sequence[Logged]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        "seq": [one.seq for one in group],
        "kind": [one.kind.value for one in group],
        "entry_id": [one.entry_id for one in group],
        "leaf": [one.leaf for one in group],
    }
    for name, _ in ROW_COLUMNS:
        columns[name] = [None if one.row is None else getattr(one.row, name) for one in group]
    return columns
