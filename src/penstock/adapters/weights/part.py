"""A file that is not whole yet: bytes are hashed while they are written, and survive a crash.

Only one process writes a part (see Locks). What a crash left is hashed once and then gone on with;
whether it was good shows at the end, when the digest is compared.
"""

import hashlib
import os
from pathlib import Path

READ_BYTES = 1 << 20


class Part:
    """An open part. All methods may take long on a slow disk: call them in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.resumed_bytes = 0
        """What was here before: not hashed on its way in, so not surely from the present source."""
        self._sha256 = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)

    def rehash(self, *, bytes_max: int) -> None:
        """Take over what is there; more than there may be is thrown away, all of it."""
        while data := os.pread(self._handle, READ_BYTES, self.size_bytes):
            self._sha256.update(data)
            self.size_bytes += len(data)
            if self.size_bytes > bytes_max:
                self.restart()
                return
        self.resumed_bytes = self.size_bytes

    def append(self, pieces: list[bytes]) -> None:
        """Write and hash. Raises OSError when the disk is full; then nothing of it counts."""
        for data in pieces:
            left = memoryview(data)
            place = self.size_bytes
            while left:
                written = os.pwrite(self._handle, left, place)
                place += written
                left = left[written:]
            self._sha256.update(data)
            self.size_bytes = place

    def restart(self) -> None:
        """From the first byte again."""
        os.ftruncate(self._handle, 0)
        self._sha256 = hashlib.sha256()
        self.size_bytes = self.resumed_bytes = 0

    def head(self, count: int) -> bytes:
        """Its first bytes."""
        return os.pread(self._handle, count, 0)

    def digest(self) -> str:
        """SHA-256 of all that was written, hex."""
        return self._sha256.hexdigest()

    def move(self, target: Path) -> None:
        """It is whole: make it durable, read-only, and give it its place."""
        os.fchmod(self._handle, 0o444)
        os.fsync(self._handle)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._handle)
