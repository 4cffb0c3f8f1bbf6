"""What the ledger remembers, as values: what a decision looks at (`View`) and what it does (`Batch`).

A decision is made in three steps: load a view, decide without any I/O, apply the batch in one
transaction that is refused if anything was written since the view (`version`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.spec.books import Books, Operation
from penstock.spec.entries import EntryKind, Row
from penstock.spec.log import Frontier

ENTRIES_PAGE_MAX = 4_096
"""The most entries that one question to the store returns."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Money of one account that one gateway may spend until it expires.

    Its id is also the id of its hold. `grants` counts the times it was granted or extended.
    """

    lease_id: str
    gateway: str
    account: str
    granted_nano: int
    grants: int
    opened_ms: int
    expires_ms: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class EpochState:
    """How far an epoch has come: open, closed, published, settled, done. -1 means not yet.

    `pool_nano` is the sum of the pool parts of its records' charges.
    """

    epoch: int
    first_seq: int
    previous: int = -1
    """The epoch that was closed before this one."""
    close_seq: int = -1
    closed_ms: int = -1
    published_ms: int = -1
    settled_seq: int = -1
    is_done: bool = False
    pool_nano: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry as the log holds it. `row` is there for records only."""

    seq: int
    epoch: int
    kind: EntryKind
    entry_id: str
    leaf: bytes
    row: Row | None


@dataclass(frozen=True, slots=True)
class Appending:
    """An entry to append. Its sequence number and epoch come from the state it is applied to."""

    kind: EntryKind
    entry_id: str
    leaf: bytes
    row: Row | None = None


EntryKey = tuple[EntryKind, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a decision needs to see. Each list is bounded by its maker."""

    entries: tuple[EntryKey, ...] = ()
    accounts: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()
    leases_of: tuple[str, ...] = ()
    """All open leases of these gateways."""
    leases_due_ms: int = -1
    """Open leases that expired at or before this moment."""
    operations: tuple[str, ...] = ()
    """Ids of operations: the books then know whether they were applied before."""
    key_hashes: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """The state at one version. `books` holds only the accounts, holds and ids that were wanted."""

    version: int
    frontier: Frontier
    epoch: EpochState | None
    """The open epoch; None before the first."""
    entries: Mapping[EntryKey, Logged] = field(default_factory=dict)
    books: Books = field(default_factory=Books)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, int] = field(default_factory=dict)
    """Order ids of pending claims, and when each was first seen."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction: all of it or nothing. Values replace what the store has under their ids.

    Appended entries belong to `entries_epoch`. `epochs` and `open_epoch` are the state after it.
    """

    version: int
    entries_epoch: int
    open_epoch: int
    operations: tuple[Operation, ...] = ()
    entries: tuple[Appending, ...] = ()
    epochs: tuple[EpochState, ...] = ()
    leases: tuple[Lease, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, int], ...] = ()
    claims_over: tuple[str, ...] = ()
