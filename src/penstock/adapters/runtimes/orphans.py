"""When does nobody care any more? A file whose change is the sign of an agent; see ProcessRuntime.beat.

Standard library only: for the holder and the warden. Only whether the file changed counts, measured by
our own monotonic clock, so that no jump of the wall clock ends or keeps a task.
"""

import time
from pathlib import Path

now_s = time.monotonic  # noqa: TID251 - a script of its own, whose waits are real


class Beat:
    """path: the file. orphan_ms: how long it may stay as it is."""

    def __init__(self, path: str, orphan_ms: int) -> None:
        self._path = Path(path)
        self._orphan_ms = orphan_ms
        self._last_ns = 0
        self._seen_s = now_s()
        self._late_looks = 0

    def is_over(self) -> bool:
        """Look; to be called about every second.

        True from the second late look on: after a sleep of the whole machine, we may wake before the
        agent does.
        """
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except OSError:
            changed_ns = self._last_ns  # Nobody can say that it cares.
        if changed_ns != self._last_ns:
            self._last_ns, self._seen_s, self._late_looks = changed_ns, now_s(), 0
        elif (now_s() - self._seen_s) * 1000 > self._orphan_ms:
            self._late_looks += 1
        return self._late_looks > 1
