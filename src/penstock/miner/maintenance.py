"""Planned absence: from when until when this miner serves nothing, kept over restarts.

At its beginning the instances are drained as for good (offers withdrawn, answers finished, engines
stopped), at its end placement begins anew. Who withdraws is not due any more, so presence and with it
availability do not drop; what is lost is the standby pay of the epochs in which it was away at their
end, and its place among the first (docs/mine.md).
"""

from dataclasses import dataclass, field

import msgspec

from penstock.kit.ports import Files

FILE = "maintenance.json"
LENGTH_MS_MAX = 31 * 24 * 3_600_000
AHEAD_MS_MAX = 366 * 24 * 3_600_000
LENGTH_MS_MIN = 1_000


class MaintenanceRefused(Exception):
    """This window makes no sense."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `from_ms` up to, not including, `until_ms`: Unix milliseconds of the market's time."""

    from_ms: int
    until_ms: int

    def is_on(self, now_ms: int) -> bool:
        return self.from_ms <= now_ms < self.until_ms


@dataclass(slots=True)
class Maintenance:
    """At most one window. Without files it is forgotten with the process. A file that cannot be read
    is no window: a miner rather serves than not.
    """

    files: Files | None = None
    window: Window | None = None
    why: str = field(default="")
    """What was wrong with the file."""

    def open(self) -> None:
        """Read what a former life planned."""
        if self.files is None:
            return
        try:
            self.window = msgspec.json.decode(self.files.read(FILE), type=Window | None)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.why = f"{FILE} cannot be read ({error}): plan the maintenance again"

    def plan(self, window: Window | None, *, now_ms: int) -> None:
        """Put this in the place of what was planned; None: nothing is. Raises MaintenanceRefused, and
        kit's DiskFull: then nothing is changed.
        """
        if window is not None:
            check_window(window, now_ms=now_ms)
        if self.files is not None:
            self.files.write(FILE, msgspec.json.encode(window))
        self.window, self.why = window, ""

    def is_on(self, now_ms: int) -> bool:
        """Shall nothing be served now?"""
        return self.window is not None and self.window.is_on(now_ms)

    def next_ms(self, now_ms: int) -> int | None:
        """When the coming window begins, None when none is to come."""
        if self.window is None or self.window.from_ms <= now_ms:
            return None
        return self.window.from_ms


def check_window(window: Window, *, now_ms: int) -> None:
    """Raises MaintenanceRefused."""
    length_ms = window.until_ms - window.from_ms
    if not LENGTH_MS_MIN <= length_ms <= LENGTH_MS_MAX:
        raise MaintenanceRefused("a maintenance takes from one second to 31 days")
    if window.until_ms <= now_ms:
        raise MaintenanceRefused("it would be over already")
    if window.from_ms > now_ms + AHEAD_MS_MAX:
        raise MaintenanceRefused("it begins more than a year from now")


def offer_end_ms(*, now_ms: int, ttl_ms: int, beat_ms: int, rest_from_ms: int | None) -> int:
    """Until when an offer holds that is made now: its time to live, cut where a planned absence begins.

    It holds two beats at least, so that it is withdrawn (which costs no presence) before it expires.
    """
    end_ms = now_ms + ttl_ms
    if rest_from_ms is None:
        return end_ms
    return max(min(end_ms, rest_from_ms), now_ms + 2 * beat_ms)
