"""Spare capacity: what a batch may use without anybody waiting for it.

A line goes only to an instance that has at least half of its room free with the line in it, or to an
empty one of a chute that nobody else has asked for in a while.
"""

from penstock.gateway.demand import Demand
from penstock.gateway.directory import Directory
from penstock.gateway.errors import BadRequest, ModelUnknown
from penstock.gateway.instances import Instance
from penstock.gateway.model_strings import ModelStrings
from penstock.kit.ports import Clock


class Spare:
    """What this gateway's batches have out, by chute, and when others last asked for it."""

    def __init__(
        self,
        *,
        directory: Directory,
        demand: Demand,
        clock: Clock,
        strings: ModelStrings,
        quiet_ms: int,
    ) -> None:
        self._directory = directory
        self._demand = demand
        self._clock = clock
        self._strings = strings
        self._quiet_ms = quiet_ms
        self._out: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._quiet_since_ms: dict[str, int] = {}

    def chutes_of(self, model: str) -> tuple[str, ...]:
        """The chutes that a model string may mean; none if nobody knows any."""
        try:
            targets = self._strings.targets(model)
            return tuple(self._directory.resolve(target.model).chute for target in targets)
        except (ModelUnknown, BadRequest):
            return ()  # to be told so by asking

    def has_room(self, chutes: tuple[str, ...]) -> bool:
        """Is there an instance that fits one more line now?"""
        for chute in chutes:
            present = self._directory.instances(chute)
            fit = sum(self.fits(one) for one in present)
            if fit and self._out.get(chute, 0) < max(1, sum(one.room // 2 for one in present)):
                return True
        return False

    def fits(self, instance: Instance) -> bool:
        """May this instance take one more line?"""
        if not instance.has_room:
            return False
        if 2 * (instance.running + 1) <= instance.room:
            return True
        return not instance.running and self._is_quiet(instance.chute)

    def sent(self, chutes: tuple[str, ...]) -> None:
        """A line is on its way to one of these; each is asked for it in the order of the string."""
        for chute in chutes[:1]:
            self.look(chute)
            self._out[chute] = self._out.get(chute, 0) + 1
            self._asked[chute] = self._asked.get(chute, 0) + 1

    def ended(self, chutes: tuple[str, ...]) -> None:
        """Its answer is here."""
        for chute in chutes[:1]:
            self._out[chute] -= 1
            if not self._out[chute]:
                del self._out[chute]

    def look(self, chute: str) -> None:
        """Has anybody else asked since the last look?"""
        asked = self._demand.asked(chute)
        if self._asked.get(chute) != asked:
            self._asked[chute] = asked
            self._quiet_since_ms[chute] = self._clock.now_ms()

    def _is_quiet(self, chute: str) -> bool:
        self.look(chute)
        since_ms = self._quiet_since_ms[chute]
        return self._clock.now_ms() - since_ms >= self._quiet_ms
