"""Who was here in an epoch, by the market's own clock.

Every accepted offer covers the time up to the next one, at most one and a half beats: jitter costs
nothing, a missed beat at least half of one. An instance is due from its first beat on (or from the
epoch's start) until the epoch's end; only one that withdraws is due no longer. So vanishing costs
presence and leaving does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from penstock.market.errors import MarketFull
from penstock.spec.messages import Offer, Presence

Key = tuple[str, str, str, str, str]
"""(instance, miner, chute, device, hardware)"""


@dataclass(slots=True)
class _Line:
    """One presence in the making. `due_ms` and `covered_ms` are of spans that are over."""

    first_ms: int
    last_ms: int
    due_ms: int = 0
    covered_ms: int = 0
    is_open: bool = True

    def cover(self, now_ms: int, reach_ms: int) -> None:
        """Count the time that the last beat covers, up to now."""
        until_ms = min(now_ms, self.last_ms + reach_ms)
        self.covered_ms += max(0, until_ms - max(self.first_ms, self.last_ms))

    def end(self, now_ms: int, reach_ms: int) -> None:
        """The span is over."""
        self.cover(now_ms, reach_ms)
        self.due_ms += max(0, now_ms - self.first_ms)
        self.is_open = False


class PresenceBook:
    """The presences of one epoch."""

    def __init__(self, start_ms: int, *, beat_ms: int, miner_presences_max: int) -> None:
        self._start_ms = start_ms
        self._beat_ms = beat_ms
        self._reach_ms = beat_ms * 3 // 2
        self._miner_presences_max = miner_presences_max
        self._lines: dict[Key, _Line] = {}
        self._key_of: dict[str, Key] = {}
        self._by_miner: dict[str, int] = {}
        self._roomy: set[str] = set()

    @property
    def roomy(self) -> frozenset[str]:
        """Instances that had room in at least one beat of this epoch."""
        return frozenset(self._roomy)

    def __len__(self) -> int:
        return len(self._lines)

    def check_room(self, offer: Offer, *, hardware: str) -> None:
        """Raises MarketFull when this beat would be one presence too many of its miner."""
        if _key(offer, hardware) in self._lines:
            return
        if self._by_miner.get(offer.miner, 0) >= self._miner_presences_max:
            raise MarketFull(
                what="presences of one miner in one epoch", limit=self._miner_presences_max
            )

    def beat(self, offer: Offer, *, hardware: str, now_ms: int) -> None:
        """An offer was accepted."""
        key = _key(offer, hardware)
        line = self._lines.get(key)
        before = self._key_of.get(offer.instance)
        if before is not None and before != key:
            self.leave(offer.instance, now_ms=now_ms)
        self._key_of[offer.instance] = key
        if offer.room:
            self._roomy.add(offer.instance)
        if line is None:
            self._lines[key] = _Line(first_ms=now_ms, last_ms=now_ms)
            self._by_miner[offer.miner] = self._by_miner.get(offer.miner, 0) + 1
        elif line.is_open:
            line.cover(now_ms, self._reach_ms)
            line.last_ms = now_ms
        else:
            line.first_ms = line.last_ms = now_ms
            line.is_open = True

    def leave(self, instance: str, *, now_ms: int) -> None:
        """An instance withdrew: from now on it is not due."""
        key = self._key_of.pop(instance, None)
        if key is not None:
            self._lines[key].end(now_ms, self._reach_ms)

    def close(
        self, end_ms: int, *, is_live: Callable[[str], bool]
    ) -> tuple[tuple[Presence, ...], "PresenceBook"]:
        """(the presences, sorted, nobody asked yet; the next epoch's book).

        An instance that is live goes on into the next book; the rest of its last beat's time
        belongs there.
        """
        after = PresenceBook(
            end_ms, beat_ms=self._beat_ms, miner_presences_max=self._miner_presences_max
        )
        presences = []
        for key, line in sorted(self._lines.items()):
            if line.is_open:
                if is_live(key[0]) and self._key_of.get(key[0]) == key:
                    after._carry(key, line.last_ms)
                line.end(end_ms, self._reach_ms)
            presences.append(self._presence(key, line))
        return tuple(presences), after

    def _carry(self, key: Key, last_ms: int) -> None:
        self._lines[key] = _Line(first_ms=self._start_ms, last_ms=last_ms)
        self._key_of[key[0]] = key
        self._by_miner[key[1]] = self._by_miner.get(key[1], 0) + 1

    def _presence(self, key: Key, line: _Line) -> Presence:
        due = line.due_ms // self._beat_ms
        return Presence(
            instance=key[0],
            miner=key[1],
            chute=key[2],
            device=key[3],
            hardware=key[4],
            beats_seen=min(due, line.covered_ms // self._beat_ms),
            beats_due=due,
            asked=False,
        )


def _key(offer: Offer, hardware: str) -> Key:
    return (offer.instance, offer.miner, offer.chute, offer.device, hardware)
