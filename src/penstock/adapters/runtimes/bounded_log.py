"""A task's log: a file with one older one beside it. Standard library only: the holder writes it."""

import os
from pathlib import Path

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class BoundedLog:
    """Both files together stay under `bytes_max`. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._half_bytes = bytes_max // 2
        self._file = os.open(path, FLAGS, 0o600)
        self._size_bytes = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        """On a full disk the words are lost, and whoever wrote them goes on."""
        try:
            if self._size_bytes + len(data) > self._half_bytes:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                fresh = os.open(self._path, FLAGS, 0o600)
                os.close(self._file)
                self._file, self._size_bytes = fresh, 0
            self._size_bytes += os.write(self._file, data)
        except OSError:
            return  # As said above: a full disk is no reason to end an engine.
