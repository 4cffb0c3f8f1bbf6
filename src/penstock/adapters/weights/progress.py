"""How far a fetch is: for the command line and for an instance that is `pulling`."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from penstock.kit.ports import Clock

EVERY_US = 250_000
WINDOW_US = 10_000_000
SAMPLES_MAX = 64
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes that are here of all; the rate is of the last 10 s, resumed bytes not counted.

    `eta_ms` is None while there is no rate. `waits` says that another process does the fetching.
    """

    done_bytes: int
    total_bytes: int
    rate_bytes_s: int
    eta_ms: int | None
    source: str
    file: str
    waits: bool = False


OnProgress = Callable[[Progress], None]


def ignore(_progress: Progress) -> None:
    """For callers who do not look."""


class Meter:
    """Counts the bytes of one fetch and tells of them, at most four times a second."""

    def __init__(self, clock: Clock, on_progress: OnProgress, *, total_bytes: int) -> None:
        self._clock = clock
        self._on_progress = on_progress
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.source = ""
        self.file = ""
        self.waits = False
        self._told_us: int | None = None
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)
        self._moved_bytes = 0
        """What came over the network; falls back never, unlike `done_bytes`."""

    def found(self, count_bytes: int) -> None:
        """Bytes that are here without a transfer; negative where some are thrown away."""
        self.done_bytes += count_bytes
        self.tell()

    def came(self, count_bytes: int) -> None:
        """Bytes of a transfer."""
        self.done_bytes += count_bytes
        self._moved_bytes += count_bytes
        now_us = self._clock.mono_us()
        if self._told_us is None or now_us - self._told_us >= EVERY_US:
            self.tell()

    def tell(self) -> None:
        """Tell now."""
        now_us = self._told_us = self._clock.mono_us()
        self._samples.append((now_us, self._moved_bytes))
        while len(self._samples) > 2 and now_us - self._samples[0][0] > WINDOW_US:
            self._samples.popleft()
        rate = self._rate(now_us)
        left = max(0, self.total_bytes - self.done_bytes)
        self._on_progress(
            Progress(
                done_bytes=self.done_bytes,
                total_bytes=self.total_bytes,
                rate_bytes_s=rate,
                eta_ms=left * 1000 // rate if rate else None,
                source=self.source,
                file=self.file,
                waits=self.waits,
            )
        )

    def _rate(self, now_us: int) -> int:
        since_us, since_bytes = self._samples[0]
        if now_us <= since_us:
            return 0
        return (self._moved_bytes - since_bytes) * MICRO // (now_us - since_us)
