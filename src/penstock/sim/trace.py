"""The trace of a run: one digest over everything that happened, in order.

Two runs of one seed are the same run exactly when their digests are equal, so a digest that differs
between two interpreters, or under another hash seed, is a leak of chance into a station.
"""

import hashlib
from collections import deque

LINES_MAX = 400


class Trace:
    """Events as lines of text under one SHA-256; the newest lines are kept for whoever looks."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0
        self.lines: deque[str] = deque(maxlen=LINES_MAX)

    def note(self, at_us: int, who: str, what: str) -> None:
        """Something happened: at this virtual time, to this host, this."""
        line = f"{at_us} {who} {what}"
        self._hash.update(line.encode() + b"\n")
        self.lines.append(line)
        self.count += 1

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all lines so far."""
        return self._hash.hexdigest()
