"""A ledger's log and its published files, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.client.errors import NotPublished
from penstock.ledger.state import EntryKey, Logged
from penstock.spec.entries import Entry, EntryKind, Row, leaf_bytes
from penstock.spec.log import EMPTY, Frontier, leaf_hash


@dataclass
class DictSource:
    """Published files in memory."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)

    async def get(self, name: str) -> bytes:
        self.asked.append(name)
        if name not in self.files:
            raise NotPublished(name)
        return self.files[name]


class MemoryLog:
    """The log as the publisher reads it."""

    def __init__(self) -> None:
        self.entries_: list[Logged] = []
        self.frontier: Frontier = EMPTY
        self.nodes_: dict[tuple[int, int], bytes] = {}

    def append(self, epoch: int, entry: Entry, row: Row | None) -> int:
        leaf = leaf_bytes(entry)
        seq = self.frontier.size
        self.frontier, nodes = self.frontier.grow(leaf_hash(leaf))
        self.nodes_.update({(node.level, node.index): node.hash for node in nodes})
        self.entries_.append(Logged(seq, epoch, entry.kind, entry.entry_id, leaf, row))
        return seq

    async def entry(self, key: EntryKey) -> Logged | None:
        found = [one for one in self.entries_ if (one.kind, one.entry_id) == key]
        return found[0] if found else None

    async def entries(self, first_seq: int, *, count: int) -> list[Logged]:
        return self.entries_[first_seq : first_seq + count]

    async def entries_under(self, kind: EntryKind, *, prefix: str, seq_max: int) -> list[Logged]:
        return [one for one in self.entries_[: seq_max + 1] if one.kind is kind]

    async def nodes(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {key: self.nodes_[key] for key in wanted}
