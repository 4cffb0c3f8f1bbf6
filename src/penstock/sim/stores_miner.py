"""The miner's outbox in memory, with a disk that can be filled and a power cord that can be pulled."""

from penstock.kit.ports import DiskFull

BYTES_MAX = 1 << 30


class MemoryOutbox:
    """Implements `miner.store.OutboxStore`. Keep the object over a miner's restart: it is the disk."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._data = bytearray()
        self._synced_bytes = 0

    def load(self) -> list[bytes]:
        """All complete lines; what follows the last line end is cut off."""
        del self._data[self._data.rfind(b"\n") + 1 :]
        return bytes(self._data).split(b"\n")[:-1]

    def append(self, line: bytes) -> None:
        """Add one line. Raises DiskFull."""
        assert b"\n" not in line, "one line at a time"
        self._check(len(self._data) + len(line) + 1)
        self._data += line + b"\n"

    async def sync(self) -> None:
        """What is there now survives `cut_power`."""
        self._synced_bytes = len(self._data)

    def replace(self, lines: list[bytes]) -> None:
        """These lines instead of all. Raises DiskFull."""
        data = b"".join(line + b"\n" for line in lines)
        self._check(len(self._data) + len(data))
        self._data = bytearray(data)
        self._synced_bytes = len(data)

    def cut_power(self, *, torn_bytes: int = 0) -> None:
        """Lose what was not synced, but for a torn part of it."""
        del self._data[self._synced_bytes + torn_bytes :]
        self._synced_bytes = len(self._data)

    def _check(self, size: int) -> None:
        if size > self.bytes_max:
            raise DiskFull("outbox")
