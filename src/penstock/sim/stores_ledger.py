"""The ledger's store in memory, built on the law itself: the simulator's, and the tests'.

The same contract tests run on it and on PostgreSQL. A batch is applied to copies first, so that an
error in the middle leaves nothing half done.
"""

from bisect import bisect_left
from collections.abc import Sequence

from penstock.ledger.errors import StaleView
from penstock.ledger.state import (
    ENTRIES_PAGE_MAX,
    Batch,
    EntryKey,
    EpochState,
    Lease,
    Logged,
    View,
    Wanted,
)
from penstock.spec.books import Balance, Books, apply_all
from penstock.spec.entries import EntryKind
from penstock.spec.log import EMPTY, Frontier, Node, leaf_hash


class MemoryLedgerStore:
    """Implements `penstock.ledger.ports.Store`."""

    def __init__(self) -> None:
        self.books = Books()
        self._version = 0
        self._frontier: Frontier = EMPTY
        self._open_epoch = -1
        self._log: list[Logged] = []
        self._seqs: dict[EntryKey, int] = {}
        self._ids: dict[EntryKind, list[str]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._epochs: dict[int, EpochState] = {}
        self._leases: dict[str, Lease] = {}
        self._keys: dict[str, str] = {}
        self._claims: dict[str, int] = {}

    async def view(self, wanted: Wanted) -> View:
        """What a decision needs, and no more, so that a rule that forgot to ask fails here too."""
        leases = {
            lease.lease_id: lease
            for lease in self._leases.values()
            if lease.lease_id in wanted.leases
            or (
                lease.is_open
                and (lease.gateway in wanted.leases_of or lease.expires_ms <= wanted.leases_due_ms)
            )
        }
        holds = {name: self.books.holds[name] for name in leases if name in self.books.holds}
        names = {*wanted.accounts, *(held.account for held in holds.values())}
        return View(
            version=self._version,
            frontier=self._frontier,
            epoch=self._epochs.get(self._open_epoch),
            entries={
                key: self._log[self._seqs[key]] for key in wanted.entries if key in self._seqs
            },
            books=Books(
                accounts={
                    name: self.books.accounts[name]
                    for name in sorted(names)
                    if name in self.books.accounts
                },
                holds=holds,
                seen={
                    name: self.books.seen[name]
                    for name in wanted.operations
                    if name in self.books.seen
                },
            ),
            leases=leases,
            keys={one: self._keys[one] for one in wanted.key_hashes if one in self._keys},
            claims={one: self._claims[one] for one in wanted.claims if one in self._claims},
        )

    async def apply(self, batch: Batch) -> None:
        """All or nothing. Raises StaleView and what the books refuse."""
        if batch.version != self._version:
            raise StaleView(batch.version, self._version)
        books = apply_all(self.books, batch.operations) if batch.operations else self.books
        frontier, logged, nodes = self._grown(batch)
        # From here on nothing can fail.
        self.books, self._frontier = books, frontier
        self._open_epoch = batch.open_epoch
        self._version += 1
        for one in logged:
            self._seqs[one.kind, one.entry_id] = one.seq
            self._ids.setdefault(one.kind, []).append(one.entry_id)
        self._log.extend(logged)
        self._nodes.update({(node.level, node.index): node.hash for node in nodes})
        self._epochs.update({one.epoch: one for one in batch.epochs})
        self._leases.update({one.lease_id: one for one in batch.leases})
        self._keys.update(batch.keys)
        self._claims.update(batch.claims)
        for order_id in batch.claims_over:
            self._claims.pop(order_id, None)

    def _grown(self, batch: Batch) -> tuple[Frontier, list[Logged], list[Node]]:
        frontier = self._frontier
        logged: list[Logged] = []
        nodes: list[Node] = []
        for one in batch.entries:
            assert (one.kind, one.entry_id) not in self._seqs, "an id is logged once"
            logged.append(
                Logged(
                    seq=frontier.size,
                    epoch=batch.entries_epoch,
                    kind=one.kind,
                    entry_id=one.entry_id,
                    leaf=one.leaf,
                    row=one.row,
                )
            )
            frontier, completed = frontier.grow(leaf_hash(one.leaf))
            nodes.extend(completed)
        return frontier, logged, nodes

    async def entry(self, key: EntryKey) -> Logged | None:
        """The entry of this kind and id."""
        seq = self._seqs.get(key)
        return None if seq is None else self._log[seq]

    async def entries(self, first_seq: int, *, count: int) -> list[Logged]:
        """Entries in order."""
        return self._log[first_seq : first_seq + min(count, ENTRIES_PAGE_MAX)]

    async def entries_under(self, kind: EntryKind, *, prefix: str, seq_max: int) -> list[Logged]:
        """Entries by the prefix of their id, in the order of the log."""
        found = [
            self._log[self._seqs[kind, entry_id]]
            for entry_id in self._ids.get(kind, ())
            if entry_id.startswith(prefix)
        ]
        last = bisect_left([one.seq for one in found], seq_max + 1)
        return found[: min(last, ENTRIES_PAGE_MAX)]

    async def nodes(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Roots of complete subtrees."""
        return {key: self._nodes[key] for key in wanted if key in self._nodes}

    async def balance(self, account: str) -> Balance:
        """An account's balance."""
        return self.books.balance(account)

    async def unfinished(self, *, count: int) -> list[EpochState]:
        """Closed epochs that are not done, oldest first."""
        found = [one for one in self._epochs.values() if one.close_seq >= 0 and not one.is_done]
        return sorted(found, key=lambda one: one.epoch)[:count]

    async def newest(self) -> tuple[int, int]:
        """(newest closed, newest settled)."""
        closed = [one.epoch for one in self._epochs.values() if one.close_seq >= 0]
        settled = [one.epoch for one in self._epochs.values() if one.settled_seq >= 0]
        return max(closed, default=-1), max(settled, default=-1)

    async def epoch(self, number: int) -> EpochState | None:
        """One epoch."""
        return self._epochs.get(number)
