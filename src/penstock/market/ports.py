"""What the market needs from the world beyond the kit's ports: a place for what must outlive it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.spec.keys import Signed
from penstock.spec.messages import Manifest

PENDING_MAX = 64
"""Epochs handed out by `pending` at once."""


@dataclass(frozen=True, slots=True)
class Chute:
    """A published manifest, as its owner signed it."""

    chute: str
    manifest: Manifest
    signed: Signed


@dataclass(frozen=True, slots=True)
class Word:
    """A signed message of the market that goes into the log under this id."""

    kind: str
    entry_id: str
    signed: Signed


@dataclass(frozen=True, slots=True)
class EpochWords:
    """What the market says about an epoch: its targets first, then the parts of its roll."""

    epoch: int
    words: tuple[Word, ...]


class MarketStore(Protocol):
    """All may raise StoreDown; every write may be repeated."""

    async def chutes(self) -> tuple[Chute, ...]:
        """The catalogue in the order of publishing."""
        ...

    async def add_chute(self, chute: Chute) -> bool:
        """Keep a chute; False if it was there already. Raises NameTaken."""
        ...

    async def bounties(self) -> dict[str, int]:
        """Points of every bounty that nobody has claimed, by chute."""
        ...

    async def newest(self) -> EpochWords | None:
        """The newest epoch that was saved."""
        ...

    async def save_epoch(self, words: EpochWords, *, bounties: Mapping[str, int]) -> None:
        """Keep an epoch's words and replace the bounties, at once. An epoch is kept once: what was
        saved first stands.
        """
        ...

    async def pending(self) -> tuple[EpochWords, ...]:
        """Saved epochs that are not published, oldest first, at most PENDING_MAX."""
        ...

    async def mark_published(self, epoch: int) -> None:
        """The bus has all words of this epoch."""
        ...
