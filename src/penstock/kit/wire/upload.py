"""A request's body that is read while it arrives, for bodies too large to be held whole."""

import asyncio
from collections import deque
from collections.abc import Callable

BYTES_HIGH = 256 * 1024


class UploadLost(Exception):
    """The client left, or broke its framing, before the body's end."""


class Upload:
    """The connection puts parts in; one coroutine takes them out.

    While more than `BYTES_HIGH` wait, `is_full` is True and the connection stops reading.
    """

    __slots__ = (
        "_lost",
        "_on_room",
        "_parts",
        "_waiter",
        "_waiting_bytes",
        "ended",
        "is_full",
        "length",
    )

    def __init__(self, on_room: Callable[[], None], *, length: int | None) -> None:
        self.length = length  # as announced; None for a chunked body
        self.ended = False  # the last part is here, though it may wait
        self.is_full = False
        self._on_room = on_room
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False

    async def next(self) -> bytes:
        """The next bytes, b"" at the end. Raises UploadLost."""
        while not self._parts:
            if self.ended:
                return b""
            if self._lost:
                raise UploadLost
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        self._waiting_bytes -= len(part)
        if self.is_full and self._waiting_bytes < BYTES_HIGH // 2:
            self.is_full = False
            self._on_room()
        return part

    def put(self, part: bytes) -> None:
        """More of the body; b"" is its end."""
        if part:
            self._parts.append(part)
            self._waiting_bytes += len(part)
            self.is_full = self._waiting_bytes > BYTES_HIGH
        else:
            self.ended = True
        self._wake()

    def lose(self) -> None:
        """Nothing more comes."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
