"""MemoryMarketStore: the market's store in memory, for simulations and tests."""

from collections.abc import Mapping

from penstock.kit.ports import StoreDown
from penstock.market.errors import NameTaken
from penstock.market.ports import PENDING_MAX, Chute, EpochWords


class MemoryMarketStore:
    """Implements `penstock.market.ports.MarketStore`. Set `down` to True to take it away."""

    def __init__(self) -> None:
        self.down = False
        self._chutes: dict[str, Chute] = {}
        self._owners: dict[str, str] = {}
        self._epochs: dict[int, EpochWords] = {}
        self._published: set[int] = set()
        self._bounties: dict[str, int] = {}

    async def chutes(self) -> tuple[Chute, ...]:
        """The catalogue in the order of publishing."""
        self._reach()
        return tuple(self._chutes.values())

    async def add_chute(self, chute: Chute) -> bool:
        """Keep a chute; False if it was there already. Raises NameTaken."""
        self._reach()
        manifest = chute.manifest
        if self._owners.setdefault(manifest.name, manifest.owner) != manifest.owner:
            raise NameTaken(name=manifest.name)
        if chute.chute in self._chutes:
            return False
        self._chutes[chute.chute] = chute
        return True

    async def bounties(self) -> dict[str, int]:
        """Points of every bounty that nobody has claimed, by chute."""
        self._reach()
        return dict(self._bounties)

    async def newest(self) -> EpochWords | None:
        """The newest epoch that was saved."""
        self._reach()
        return self._epochs[max(self._epochs)] if self._epochs else None

    async def save_epoch(self, words: EpochWords, *, bounties: Mapping[str, int]) -> None:
        """Keep an epoch's words and replace the bounties. What was saved first stands."""
        self._reach()
        if words.epoch not in self._epochs:
            self._epochs[words.epoch] = words
            self._bounties = dict(sorted(bounties.items()))

    async def pending(self) -> tuple[EpochWords, ...]:
        """Saved epochs that are not published, oldest first, at most PENDING_MAX."""
        self._reach()
        waiting = sorted(self._epochs.keys() - self._published)
        return tuple(self._epochs[epoch] for epoch in waiting[:PENDING_MAX])

    async def mark_published(self, epoch: int) -> None:
        """The bus has all words of this epoch."""
        self._reach()
        self._published.add(epoch)

    def _reach(self) -> None:
        if self.down:
            raise StoreDown("the store is down")
