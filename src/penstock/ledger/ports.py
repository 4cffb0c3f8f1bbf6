"""What the ledger needs from the world beyond the kit's ports."""

from collections.abc import Sequence
from typing import Protocol

from penstock.ledger.state import Batch, EntryKey, EpochState, Logged, View, Wanted
from penstock.spec.books import Balance
from penstock.spec.entries import EntryKind


class Batches(Protocol):
    """The write side: look, decide, apply. Both may raise StoreDown."""

    async def view(self, wanted: Wanted) -> View:
        """The state that a decision needs, all of one version."""
        ...

    async def apply(self, batch: Batch) -> None:
        """One transaction. Raises StaleView, and what the books refuse (then nothing changed)."""
        ...


class LogReading(Protocol):
    """The log, for proofs and publishing. All may raise StoreDown."""

    async def entry(self, key: EntryKey) -> Logged | None:
        """The entry of this kind and id."""
        ...

    async def entries(self, first_seq: int, *, count: int) -> list[Logged]:
        """Up to `count` (at most ENTRIES_PAGE_MAX) entries from `first_seq` on, in order."""
        ...

    async def entries_under(self, kind: EntryKind, *, prefix: str, seq_max: int) -> list[Logged]:
        """Entries whose id starts with `prefix` and seq is at most `seq_max`, in order."""
        ...

    async def nodes(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Roots of complete subtrees by (level, index)."""
        ...


class Accounts(Protocol):
    """Balances. May raise StoreDown."""

    async def balance(self, account: str) -> Balance:
        """An account of the books; one never used is empty."""
        ...


class Epochs(Protocol):
    """Epochs. May raise StoreDown."""

    async def unfinished(self, *, count: int) -> list[EpochState]:
        """Closed epochs that are not done, oldest first, at most `count`."""
        ...

    async def newest(self) -> tuple[int, int]:
        """(newest closed epoch, newest settled epoch), -1 where there is none."""
        ...

    async def epoch(self, number: int) -> EpochState | None:
        """One epoch's state."""
        ...


class Store(Batches, LogReading, Accounts, Epochs, Protocol):
    """All of them, as one adapter gives them."""


class LogKey(Protocol):
    """The key of the log: signs messages like any working key, and notes as raw bytes."""

    @property
    def identity(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, digest: bytes) -> str: ...

    def sign_raw(self, message: bytes) -> bytes:
        """An ed25519 signature over the message itself (C2SP signed note)."""
        ...
