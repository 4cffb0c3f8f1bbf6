"""Weights that lie on this machine already (`file:`): used where they are, and read once to be proven.

What was proven is remembered with the file's identity, size and time of change: 70 GB need not be read
at every start.
"""

import hashlib
import os
from pathlib import Path
from threading import Lock

import msgspec

from penstock.adapters.files import write_durably
from penstock.adapters.weights.errors import DigestWrong, SourceMissing
from penstock.adapters.weights.formats import check_name, kept_paths
from penstock.adapters.weights.model import model_of_folder
from penstock.spec.weights import FILES_MAX, WeightFile, is_weight_path

SEEN_MAX = 10_000


class Seen(msgspec.Struct, frozen=True):
    """One file as it was when it was read."""

    device: int
    inode: int
    size_bytes: int
    changed_ns: int
    sha256: str


class InPlace:
    """Digests of this machine's own files; `memory` is the file that remembers them."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._lock = Lock()  # it is called from threads

    def check(self, path: Path, want_sha256: str) -> Path:
        """The same path, if the digest fits (or none is wanted: a development manifest).

        Raises SourceMissing, DigestWrong, PickleRefused, FormatRefused.
        """
        if want_sha256:
            got = self.digest(path)
            if got != want_sha256:
                raise DigestWrong(str(path), f"file:{path}", want_sha256, got)
        elif not path.exists():
            raise SourceMissing(f"file:{path}")
        return path

    def digest(self, path: Path) -> str:
        """Of a file its own, of a folder its listing's. May take minutes."""
        source = f"file:{path}"
        if path.is_dir():
            return model_of_folder(self._files(path)).digest
        if not path.is_file():
            raise SourceMissing(source)
        check_name(path.name, source=source)
        return self._digest(path)

    def _files(self, folder: Path) -> tuple[WeightFile, ...]:
        names = {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.is_file()
        }
        plain = [name for name in names if is_weight_path(name)][: FILES_MAX + 1]
        return tuple(
            WeightFile(name, self._digest(names[name]), names[name].stat().st_size)
            for name in kept_paths(plain, source=f"file:{folder}")
        )

    def _digest(self, path: Path) -> str:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            key = str(path)
            seen = self._read().get(key)
            facts = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen is not None and facts == (
                seen.device,
                seen.inode,
                seen.size_bytes,
                seen.changed_ns,
            ):
                return seen.sha256
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            self._write({**self._read(), key: Seen(*facts, sha256)})
        return sha256

    def _read(self) -> dict[str, Seen]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, Seen])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _write(self, known: dict[str, Seen]) -> None:
        newest = dict(list(known.items())[-SEEN_MAX:])
        temporary = self._memory.with_name(f".{self._memory.name}.{os.getpid()}.tmp")
        write_durably(temporary, msgspec.json.encode(newest))
        temporary.replace(self._memory)
