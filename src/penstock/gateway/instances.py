"""What this gateway has learned of one instance by using it: load, speed, and whether it rests.

The breaker opens after three failures in a row, for 5 s, doubling to 30 s with each failure of the
one trial that is let through when the rest is over (OpenRouter forgets outages after 30 s too).
"""

from dataclasses import dataclass

from penstock.spec.messages import Offer
from penstock.spec.routing import Candidate

FAILURES_MAX = 3
REST_MS_MIN = 5_000
REST_MS_MAX = 30_000
EWMA_OLD, EWMA_ALL = 7, 8
"""A new measurement has one eighth of the weight."""


@dataclass(slots=True, eq=False)
class Instance:
    """An instance by its present offer. `ewma_us_per_unit` is 0 until something was measured."""

    offer: Offer
    running: int = 0
    peak: int = 0
    """The most of our orders that ran there at once since the offer before the present one."""
    room_most: int = 0
    """The most it is known to hold: room it offered, and what of ours ran all the while."""
    ewma_us_per_unit: int = 0
    failures: int = 0
    rest_ms: int = 0
    broken_until_ms: int = 0
    is_trial: bool = False
    """The breaker is half open and its one trial is running."""
    _most: int = 0
    """The most, and below the least, that ran at once since the present offer came."""
    _least: int = 0

    def __post_init__(self) -> None:
        self.room_most = self.offer.room

    @property
    def has_room(self) -> bool:
        """Room for one more of ours."""
        return self.running < self.room

    @property
    def room(self) -> int:
        """How many of our orders may run there at once.

        An offer names the room that was free when it was signed, up to a beat ago; our own orders
        of that moment are not in it and may have ended since. So what it named and the most we ran
        around then add up, but never to more than it is known to hold: too much costs a quick refusal
        and a failover, too little would turn requests away from free slots until the next offer.
        """
        return min(self.offer.room + self.peak, self.room_most)

    def renewed(self, offer: Offer) -> None:
        """A newer offer has come."""
        self.offer = offer
        self.room_most = max(self.room_most, offer.room + self._least)
        self.peak = self._most
        self._most = self._least = self.running

    def candidate(self, now_ms: int) -> Candidate:
        """As the ranking sees it. A half-open breaker with its trial under way is still open."""
        until_ms = now_ms + 1 if self.is_trial else self.broken_until_ms
        return Candidate(
            instance=self.offer.instance,
            miner=self.offer.miner,
            chute=self.offer.chute,
            price=self.offer.price,
            room=self.room,
            inflight=self.running,
            ewma_us_per_unit=self.ewma_us_per_unit,
            failures=self.failures,
            broken_until_ms=until_ms,
        )

    def started(self) -> None:
        """An order goes out to it."""
        self.running += 1
        self._most = max(self._most, self.running)
        if self.failures >= FAILURES_MAX:
            self.is_trial = True

    def succeeded(self, *, total_us: int, work: int) -> None:
        """It answered completely: `work` units in `total_us`."""
        self._ended()
        self.failures = 0
        self.rest_ms = 0
        if work > 0:
            pace = max(1, total_us // work)
            old = self.ewma_us_per_unit or pace
            self.ewma_us_per_unit = max(1, (old * EWMA_OLD + pace) // EWMA_ALL)

    def failed(self, now_ms: int) -> bool:
        """It failed an order; True when that opened the breaker."""
        self._ended()
        self.failures += 1
        if self.failures < FAILURES_MAX:
            return False
        self.rest_ms = min(max(self.rest_ms * 2, REST_MS_MIN), REST_MS_MAX)
        self.broken_until_ms = now_ms + self.rest_ms
        return True

    def ended(self) -> None:
        """The order ended without saying anything about it (refused in time, client gone)."""
        self._ended()

    def _ended(self) -> None:
        assert self.running > 0, "an order ends once"
        self.running -= 1
        self._least = min(self._least, self.running)
        self.is_trial = False
