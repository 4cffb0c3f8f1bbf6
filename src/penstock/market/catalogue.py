"""The catalogue in memory: every published chute, in the order of publishing."""

from penstock.market.config import Bounds
from penstock.market.errors import ChuteUnknown, MarketFull
from penstock.market.ports import Chute


class Catalogue:
    """Chutes by digest. The newest manifest of a name is what the name means."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._chutes: dict[str, Chute] = {}
        self._newest: dict[str, str] = {}
        self._by_owner: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._chutes)

    def all(self) -> tuple[Chute, ...]:
        """Every chute in the order of publishing."""
        return tuple(self._chutes.values())

    def get(self, chute: str) -> Chute:
        """Raises ChuteUnknown."""
        found = self._chutes.get(chute)
        if found is None:
            raise ChuteUnknown(chute=chute)
        return found

    def is_newest(self, chute: Chute) -> bool:
        """Whether its name means this chute."""
        return self._newest.get(chute.manifest.name) == chute.chute

    def knows(self, chute: str) -> bool:
        """Whether it was published."""
        return chute in self._chutes

    def check_room(self, owner: str) -> None:
        """Raises MarketFull when one more chute of this owner is too many."""
        if len(self._chutes) >= self._bounds.chutes_max:
            raise MarketFull(what="chutes", limit=self._bounds.chutes_max)
        if self._by_owner.get(owner, 0) >= self._bounds.owner_chutes_max:
            raise MarketFull(what="chutes of one owner", limit=self._bounds.owner_chutes_max)

    def add(self, chute: Chute) -> None:
        """Take in a chute that the store has kept; a second time changes nothing."""
        if chute.chute in self._chutes:
            return
        self._chutes[chute.chute] = chute
        self._newest[chute.manifest.name] = chute.chute
        owner = chute.manifest.owner
        self._by_owner[owner] = self._by_owner.get(owner, 0) + 1
