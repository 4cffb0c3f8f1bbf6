"""The ledger's store of a world, with a journal beside it: every operation of every batch, in order.

The store's books are built by the ledger's code; the journal lets a check build them once more.
"""

from collections.abc import Callable

from penstock.ledger.state import Batch, Logged
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.books import Operation
from penstock.spec.entries import EntryKind
from penstock.spec.log import Frontier

OnEntry = Callable[[Logged], None]


class JournalStore(MemoryLedgerStore):
    """`operations` in the order of their commits. `on_entry` is told of every entry logged."""

    def __init__(self, on_entry: OnEntry) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._on_entry = on_entry

    async def apply(self, batch: Batch) -> None:
        """Keep the batch's operations once it is committed. Raises what the store raises."""
        before = len(self._log)
        await super().apply(batch)
        self.operations.extend(batch.operations)
        for logged in self._log[before:]:
            self._on_entry(logged)

    @property
    def log(self) -> list[Logged]:
        """All entries in order."""
        return self._log

    @property
    def frontier(self) -> Frontier:
        """The state of the log by the store's own count."""
        return self._frontier

    def find(self, kind: EntryKind, entry_id: str) -> Logged | None:
        """One entry."""
        seq = self._seqs.get((kind, entry_id))
        return None if seq is None else self._log[seq]
