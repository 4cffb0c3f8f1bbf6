"""The market's time, as this miner follows it: its own clock plus what the market's answers correct.

A miner whose clock is wrong by more than the network allows would issue offers in the future and
refuse good orders. So every answer that carries `now_ms` sets the offset again, and a large one is
said once, for the operator to mend.
"""

from penstock.kit.clock import OffsetClock
from penstock.kit.log import events
from penstock.kit.ports import Clock

ROUND_TRIP_MS_MAX = 2_000
"""A slower answer tells too little of the time at which it was written."""

_log = events("miner")


class MarketTime:
    """Implements `kit.ports.Clock`. `skew_ms` is how far the own clock is off, signed."""

    def __init__(self, own: Clock, *, skew_ms_max: int) -> None:
        self._own = own
        self._clock = OffsetClock(own)
        self._skew_ms_max = skew_ms_max
        self._was_off = False
        self.is_set = False
        self.first_ms = 0
        """The market's time when it was first learned: nothing was served before."""

    @property
    def skew_ms(self) -> int:
        """The own clock minus the market's."""
        return -self._clock.offset_ms

    @property
    def is_off(self) -> bool:
        """Is the own clock further off than the network allows?"""
        return abs(self.skew_ms) > self._skew_ms_max

    def now_ms(self) -> int:
        """The market's wall clock, as well as we know it, Unix milliseconds."""
        return self._clock.now_ms()

    def mono_us(self) -> int:
        """Monotonic microseconds of the own clock."""
        return self._clock.mono_us()

    def learn(self, market_ms: int, *, sent_us: int) -> None:
        """The market said its time in an answer to a question sent at `sent_us` (monotonic).

        It is taken to have said it half-way. A later, slower answer never replaces a first one.
        """
        round_trip_ms = (self._own.mono_us() - sent_us) // 1000
        if self.is_set and round_trip_ms > ROUND_TRIP_MS_MAX:
            return
        self._clock.offset_ms = market_ms + round_trip_ms // 2 - self._own.now_ms()
        if not self.is_set:
            self.is_set = True
            self.first_ms = self._clock.now_ms()
        if self.is_off and not self._was_off:
            _log.warning(
                "clock.off",
                skew_ms=self.skew_ms,
                skew_ms_max=self._skew_ms_max,
                remedy="set this machine's clock, for example: timedatectl set-ntp true",
            )
        self._was_off = self.is_off
