"""How long to wait: for a source that fails now and then, and for another process that fetches."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock.adapters.weights.errors import FetchBusy, SourceRefused, Stalled, WeightsError
from penstock.adapters.weights.progress import Meter
from penstock.kit.ports import Clock


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a source is asked again while it brings nothing new, and how long to rest between.

    `busy_ms`: how long another process may fetch the same without getting on.
    """

    tries_max: int = 5
    rest_ms: int = 500
    rest_ms_max: int = 30_000
    busy_ms: int = 600_000


class Rest:
    """Tries of one source, with rests between them that double."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._tries = 0

    async def again(self, error: WeightsError) -> bool:
        """Rest, and say whether one more try is due after this failure."""
        self._tries += 1
        if is_lasting(error) or self._tries >= self._patience.tries_max:
            return False
        rest_ms = min(self._patience.rest_ms << (self._tries - 1), self._patience.rest_ms_max)
        await asyncio.sleep(rest_ms / 1000)
        return True

    def renew(self) -> None:
        """It got on meanwhile: count anew."""
        self._tries = 0


def is_lasting(error: WeightsError) -> bool:
    """Will the source say the same again?"""
    if isinstance(error, Stalled):
        return False
    return not isinstance(error, SourceRefused) or error.is_lasting


@dataclass(slots=True)
class Waiting:
    """Another process has the lock: look whether it gets on, and tell of it.

    `here_bytes` asks what is on disk by now; `pid` who has the lock.
    """

    digest: str
    meter: Meter
    clock: Clock
    busy_ms: int
    here_bytes: Callable[[], int]
    pid: Callable[[], str]
    _seen_bytes: int = -1
    _since_us: int = 0

    def look(self) -> None:
        """Raises FetchBusy when nothing has come for too long."""
        here_bytes = self.here_bytes()
        now_us = self.clock.mono_us()
        if here_bytes != self._seen_bytes:
            self._seen_bytes, self._since_us = here_bytes, now_us
            self.meter.waits = True
            self.meter.tell()
        elif now_us - self._since_us > self.busy_ms * 1000:
            raise FetchBusy(self.digest, self.pid())
