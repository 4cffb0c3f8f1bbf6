"""MemoryFiles: the Files port in memory, with a bound, so that a full disk can be simulated."""

import re

from penstock.kit.ports import DiskFull

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class MemoryFiles:
    """Holds at most `bytes_max` bytes in all; raise or lower it while running to play a fault."""

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._files: dict[str, bytes] = {}

    @property
    def bytes_used(self) -> int:
        return sum(len(data) for data in self._files.values())

    def write(self, name: str, data: bytes) -> None:
        """Replace `name`. Like a real atomic replace, old and new need room at the same time."""
        _check_name(name)
        if self.bytes_used + len(data) > self.bytes_max:
            raise DiskFull(name)
        self._files[name] = bytes(data)

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        _check_name(name)
        if name not in self._files:
            raise FileNotFoundError(name)
        return self._files[name]

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted."""
        return sorted(name for name in self._files if name.startswith(prefix))


def _check_name(name: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a relative published name")
