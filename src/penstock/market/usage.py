"""What gateways report about demand: running totals by gateway and chute, read as differences.

A gateway puts its totals on the board once a beat; a lost or repeated one changes nothing. A total
that falls is a gateway that started anew.
"""

from dataclasses import dataclass

import msgspec

COUNT_MAX = (1 << 53) - 1


class Totals(msgspec.Struct, frozen=True):
    """`{"chute", "requests", "refused", "busy_us"}`, counted since the gateway started."""

    chute: str
    requests: int
    refused: int
    busy_us: int


@dataclass(frozen=True, slots=True)
class Counted:
    """One epoch's usage of a chute, over all gateways."""

    requests: int = 0
    refused: int = 0
    busy_us: int = 0


class UsageBook:
    """Totals by board key, and what came in since the last epoch."""

    def __init__(self, counters_max: int) -> None:
        self._counters_max = counters_max
        self._totals: dict[str, Totals] = {}
        self._counted: dict[str, Counted] = {}

    def take(self, key: str, value: bytes, *, is_old: bool) -> bool:
        """A change on the board; False when it could not be counted.

        `is_old`: what is seen for the first time was there before this market started, so it is
        where counting begins and not something that happened now.
        """
        if not value:
            self._totals.pop(key, None)
            return True
        try:
            totals = msgspec.json.decode(value, type=Totals)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        numbers = (totals.requests, totals.refused, totals.busy_us)
        known = self._totals.get(key)
        if min(numbers) < 0 or max(numbers) > COUNT_MAX:
            return False
        if known is None and len(self._totals) >= self._counters_max:
            return False
        self._totals[key] = totals
        if known is not None or not is_old:
            self._add(totals, known)
        return True

    def close(self) -> dict[str, Counted]:
        """The epoch's usage by chute; the next epoch starts at nothing."""
        counted, self._counted = self._counted, {}
        return counted

    def _add(self, totals: Totals, known: Totals | None) -> None:
        restarted = known is None or (
            totals.requests < known.requests
            or totals.refused < known.refused
            or totals.busy_us < known.busy_us
        )
        base = Totals(totals.chute, 0, 0, 0) if known is None or restarted else known
        so_far = self._counted.get(totals.chute, Counted())
        self._counted[totals.chute] = Counted(
            requests=so_far.requests + totals.requests - base.requests,
            refused=so_far.refused + totals.refused - base.refused,
            busy_us=so_far.busy_us + totals.busy_us - base.busy_us,
        )
