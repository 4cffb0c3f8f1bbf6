"""FolderFiles: the Files port over a real folder; each file is replaced atomically and durably.

A reader (or a crash) sees the old bytes or the new ones, never a part: write a temporary file,
fsync it, rename it over the name, fsync the folder.
"""

import errno
import os
import re
from pathlib import Path

from penstock.adapters.errors import NameRefused
from penstock.kit.ports import DiskFull

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
NAME_LENGTH_MAX = 512
# EFBIG is how a process learns that it met its own file size limit (ulimit -f).
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FolderFiles:
    """Files below `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Replace `name`. Raises DiskFull (the old file stands), NameRefused, other OSErrors."""
        path = self._path(name)
        # Not `with_suffix`: two names must never share one temporary file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._make_folder(path.parent)
            try:
                write_durably(temporary, data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(name) from error
            raise

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError, NameRefused."""
        return self._path(name).read_bytes()

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted. Hidden files (our temporary ones) do not count."""
        found = [
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if not path.name.startswith(".") and path.is_file()
        ]
        return sorted(name for name in found if name.startswith(prefix))

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _make_folder(self, folder: Path) -> None:
        """Make missing folders, each durable in its parent before it is used."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def check_name(name: str) -> str:
    """Refuse names that leave the folder, are absolute, or look like a temporary file."""
    if len(name) > NAME_LENGTH_MAX or NAME_PATTERN.fullmatch(name) is None:
        raise NameRefused(name)
    return name


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and wait until the disk has it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
