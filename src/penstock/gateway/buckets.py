"""Token buckets in integers: so much a second, and a store of it for those who asked for less.

A bucket is one number: when it will be full, counted in what it gains until then. So time fills it
without anybody looking. What is larger than a whole bucket may still be taken when it is full; it is
in debt for a while afterwards.
"""

from dataclasses import dataclass

MICRO = 1_000_000
"""A level counts millionths, so that what a microsecond brings is a whole number."""
WAIT_US_MAX = 3_600 * MICRO
"""No longer wait is named; a bucket that gains nothing never fills."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a bucket gains a second, and the most that it holds."""

    per_s: int
    full: int


class Bucket:
    """One bucket, full when it is made. `now_us` is always the same monotonic clock's."""

    __slots__ = ("_full_at", "_full_micro", "_per_s", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._per_s = rate.per_s
        self._full_micro = rate.full * MICRO
        self._full_at = 0
        """The moment when it is full, in microseconds times `per_s`; what is past means full. One
        that gains nothing counts here what was taken of it.
        """

    def take(self, amount: int, now_us: int) -> int:
        """Take it, and return 0; or, if it is not there, take nothing and return the wait in us."""
        now = now_us * self._per_s
        full_at, needed = self._full_at, amount * MICRO
        if full_at <= now:  # full: whatever it is, it is there
            self._full_at = now + needed
            return 0
        lacking = full_at - now + needed - self._full_micro
        if lacking > 0:
            return self._wait_us(min(lacking, full_at - now))
        self._full_at = full_at + needed
        return 0

    def give_back(self, amount: int) -> None:
        """So much less was used than was taken, or more if negative. It never holds more than full."""
        self._full_at -= amount * MICRO

    def missing(self, now_us: int) -> int:
        """What it lacks of being full, in millionths; more than it holds while it is in debt."""
        return max(0, self._full_at - now_us * self._per_s)

    def left(self, now_us: int) -> int:
        """What can be taken now."""
        return max(0, self._full_micro - self.missing(now_us)) // MICRO

    def full_in_ms(self, now_us: int) -> int:
        """Until it is full if nothing more is taken, rounded up."""
        return -(-self._wait_us(self.missing(now_us)) // 1000)

    def _wait_us(self, micro: int) -> int:
        """How long it takes to gain so much."""
        if not self._per_s:
            return WAIT_US_MAX if micro else 0
        return min(-(-micro // self._per_s), WAIT_US_MAX)
