"""Hedging: a second order for a request whose first byte is later than that of 95 in 100 others.

It trades a little work for the slowest answers, within a budget: `hedge_ppm` of all requests. What is
late is measured per chute, form and size of the prompt, over the last answers of that kind.
"""

from bisect import insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from penstock.gateway.bodies import Call

PPM = 1_000_000
SAMPLES_MIN = 16
SAMPLES_MAX = 64
BUCKETS_MAX = 1_024
SAVED_MAX = 8
"""Hedges that a quiet time saves up."""
LATE_PPM = 950_000

Bucket = tuple[str, bool, int]


@dataclass(slots=True, eq=False)
class _Times:
    """The last times to the first byte, as they came and sorted."""

    recent: deque[int] = field(default_factory=deque)
    ranked: list[int] = field(default_factory=list)

    def add(self, us: int) -> None:
        if len(self.recent) == SAMPLES_MAX:
            self.ranked.remove(self.recent.popleft())
        self.recent.append(us)
        insort(self.ranked, us)


class Hedges:
    """The budget and the times. Without a budget it does nothing."""

    def __init__(self, hedge_ppm: int) -> None:
        self._hedge_ppm = hedge_ppm
        self._budget_ppm = 0
        self._times: OrderedDict[Bucket, _Times] = OrderedDict()

    @property
    def is_on(self) -> bool:
        return self._hedge_ppm > 0

    def bucket(self, chute: str, call: Call) -> Bucket:
        """Prompts of a power of two's size are alike."""
        return chute, call.stream, len(call.body).bit_length()

    def asked(self, bucket: Bucket) -> int:
        """One more request: earns its share of a hedge. Returns after how many us it is late; 0 when
        that is not known yet.
        """
        self._budget_ppm = min(self._budget_ppm + self._hedge_ppm, SAVED_MAX * PPM)
        times = self._times.get(bucket)
        if times is None or len(times.ranked) < SAMPLES_MIN:
            return 0
        return times.ranked[len(times.ranked) * LATE_PPM // PPM]

    def take(self) -> bool:
        """Is there one hedge left in the budget? Then it is spent."""
        if self._budget_ppm < PPM:
            return False
        self._budget_ppm -= PPM
        return True

    def answered(self, bucket: Bucket, first_us: int) -> None:
        """An instance answered its first byte after so long."""
        times = self._times.get(bucket)
        if times is None:
            times = self._times[bucket] = _Times()
            if len(self._times) > BUCKETS_MAX:
                self._times.popitem(last=False)
        times.add(first_us)
