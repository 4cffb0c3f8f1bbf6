"""Time as an argument: the system's clock, and one that can be set off it.

This is the only file that reads the machine's time; everything else takes a `Clock`.
"""

import time

from penstock.kit.ports import Clock


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Wall clock, Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def mono_us(self) -> int:
        """Monotonic microseconds from an arbitrary zero."""
        return time.monotonic_ns() // 1_000


class OffsetClock:
    """A clock whose wall time is `offset_ms` away from another's; the monotonic time is shared.

    For stations that follow the market's time, and for tests of clock skew.
    """

    def __init__(self, inner: Clock, offset_ms: int = 0) -> None:
        self._inner = inner
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        """Wall clock of the inner clock plus the offset, Unix milliseconds."""
        return self._inner.now_ms() + self.offset_ms

    def mono_us(self) -> int:
        """Monotonic microseconds of the inner clock; an offset never moves it."""
        return self._inner.mono_us()
