"""What of a foreign suite is out of our scope, and why: one TOML file a suite.

Read here and, inside the suite's own environment, by the pytest plugin: standard library only.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


class BadScope(Exception):
    """A scope file that does not say what it must."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Tests that are left out: `*` stands for anything in a pattern of test names."""

    where: tuple[str, ...]
    reason: str

    def holds(self, test: str) -> bool:
        return any(fnmatchcase(test, pattern) for pattern in self.where)

    def holds_all_of(self, file: str) -> bool:
        """Whether every test of a file is left out."""
        return self.holds(f"{file}::")


def read_scope(text: str) -> tuple[Entry, ...]:
    """The entries of a file. Raises BadScope."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadScope(f"The scope list is no TOML: {error}.") from error
    entries = []
    for one in found.get("out", []):
        where, reason = one.get("where"), one.get("reason")
        if not isinstance(where, list) or not where or not isinstance(reason, str) or not reason:
            raise BadScope(f"An entry needs `where`, a list of patterns, and `reason`: {one}.")
        if any("[" in pattern for pattern in where):
            raise BadScope(f"Write * for a test's [parameters]: {where}.")
        entries.append(Entry(tuple(where), reason))
    return tuple(entries)


def reason_of(test: str, entries: Iterable[Entry]) -> str:
    """Why a test is left out; "" if it is not."""
    return next((entry.reason for entry in entries if entry.holds(test)), "")


def stale(tests: Sequence[str], entries: Iterable[Entry]) -> list[str]:
    """Patterns that no test has: the suite has changed, or the list was wrong."""
    return [
        pattern
        for entry in entries
        for pattern in entry.where
        if not any(fnmatchcase(test, pattern) for test in tests)
    ]
