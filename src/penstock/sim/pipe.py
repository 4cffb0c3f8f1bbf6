"""Two asyncio transports joined in memory: what one end writes, the other receives after a delay.

Behaves as a TCP transport does where programs can tell: bytes in order, half-close, reset on
abort, `pause_writing` when the reader falls behind, nothing lost by a clean close.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, assert_never

WRITE_BYTES_HIGH = 64 * 1024

Address = tuple[str, int]
Delay = Callable[[], float]
Cut = Callable[[str, str], bool]


class _Signal(Enum):
    END = "end"
    RESET = "reset"


class PipeEnd(asyncio.Transport):
    """One end of a connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        own: Address,
        peer: Address,
        *,
        delay: Delay,
        cut: Cut,
    ) -> None:
        super().__init__({"sockname": own, "peername": peer})
        self.host = own[0]
        self.other: PipeEnd
        self._loop = loop
        self._peer_host = peer[0]
        self._delay = delay
        self._cut = cut
        self._protocol: asyncio.Protocol
        self._road: deque[bytes | _Signal] = deque()  # sent, not arrived
        self._road_until = 0.0
        self._stalled = 0  # arrivals that a partition holds back
        self._inbox: deque[bytes | _Signal] = deque()  # arrived, not read
        self._unread_bytes = 0  # written by us, not yet read by the other end
        self._high = WRITE_BYTES_HIGH
        self._low = WRITE_BYTES_HIGH // 4
        self._write_paused = False
        self._read_paused = False
        self._ended = False
        self._closing = False
        self._is_void = False
        self.lost = False

    # The transport interface.

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Send; beyond the high-water mark the protocol is told to pause."""
        if self._ended:
            raise RuntimeError("cannot write after write_eof()")
        if self._closing or not data:
            return
        self._unread_bytes += len(data)
        self._send(bytes(data))
        if self._unread_bytes > self._high and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Half-close works here."""
        return True

    def write_eof(self) -> None:
        """Tell the other end that nothing more comes."""
        if not self._ended and not self._closing:
            self._ended = True
            self._send(_Signal.END)

    def close(self) -> None:
        """Stop reading, deliver what was written, then end."""
        if self._closing:
            return
        self.write_eof()
        self._closing = True
        self._refuse_inbox()
        self._finish_close()

    def abort(self) -> None:
        """End now; the other end sees a reset after the bytes that are on the road."""
        if self.lost:
            return
        first = not self._closing
        self._closing = True
        self._send(_Signal.RESET)
        if first or self._unread_bytes > self._low:
            self._lose(None)

    def is_closing(self) -> bool:
        """Has either side ended this transport?"""
        return self._closing

    def is_reading(self) -> bool:
        """Are bytes handed to the protocol as they arrive?"""
        return not self._read_paused and not self._closing

    def pause_reading(self) -> None:
        """Let arriving bytes wait, which in the end pauses the other side's writing."""
        self._read_paused = True

    def resume_reading(self) -> None:
        """Hand over what waited, then go on."""
        if self._read_paused:
            self._read_paused = False
            self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Where `pause_writing` and `resume_writing` happen."""
        self._high = WRITE_BYTES_HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet read by the other end."""
        return self._unread_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high) water marks."""
        return (self._low, self._high)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is told what happens."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told what happens."""
        return self._protocol

    # For the network.

    def die(self) -> None:
        """The host is gone: nothing on the road arrives, the other end is reset."""
        if self.lost:
            return
        self._road.clear()
        self._stalled = 0
        self._closing = True
        self._send(_Signal.RESET)
        self._lose(ConnectionAbortedError(f"{self.host} died"))

    def vanish(self) -> None:
        """Something between the ends has forgotten the connection: nothing that is sent arrives any
        more, and nobody is told.
        """
        self._is_void = True
        self._finish_close()

    def unstall(self) -> None:
        """A partition healed: what it held back is sent on."""
        held, self._stalled = self._stalled, 0
        for _ in range(held):
            self._loop.call_later(self._delay(), self._arrive)

    # Inside.

    def _send(self, item: bytes | _Signal) -> None:
        self._road_until = max(self._road_until, self._loop.time() + self._delay())
        self._road.append(item)
        self._loop.call_at(self._road_until, self._arrive)

    def _arrive(self) -> None:
        """The oldest item on the road is due. Timers may fire in any order, the road keeps it."""
        if not self._road:
            return  # it died with its host
        if self._is_void:
            self._road.popleft()
            return
        if self._cut(self.host, self._peer_host):
            self._stalled += 1
            return
        self.other._deliver(self._road.popleft())  # noqa: SLF001 - the same connection

    def _deliver(self, item: bytes | _Signal) -> None:
        if item is _Signal.RESET:
            if not self.lost:
                self._closing = True
                self._lose(ConnectionResetError("the peer reset the connection"))
        elif self._closing:
            self._refuse(item)
        else:
            self._inbox.append(item)
            self._read()

    def _read(self) -> None:
        while self._inbox and not self._read_paused and not self._closing:
            item = self._inbox.popleft()
            match item:
                case bytes():
                    self.other._read_by_peer(len(item))  # noqa: SLF001 - the same connection
                    self._protocol.data_received(item)
                case _Signal.END:
                    if not self._protocol.eof_received():
                        self.close()
                case _Signal.RESET:
                    raise AssertionError("a reset never waits")
                case _:
                    assert_never(item)

    def _read_by_peer(self, size: int) -> None:
        self._unread_bytes -= size
        if self._unread_bytes > self._low:
            return
        if self._write_paused and not self.lost:
            self._write_paused = False
            self._loop.call_soon(self._protocol.resume_writing)
        self._finish_close()

    def _refuse_inbox(self) -> None:
        while self._inbox:
            self._refuse(self._inbox.popleft())

    def _refuse(self, item: bytes | _Signal) -> None:
        """Bytes for an end that reads no more: the sender is reset, as a kernel does."""
        if isinstance(item, bytes):
            self.other._read_by_peer(len(item))  # noqa: SLF001 - the same connection
            self._send(_Signal.RESET)

    def _finish_close(self) -> None:
        """As with a kernel's send buffer, the last few bytes need not have been read."""
        if self._closing and not self.lost and (self._is_void or self._unread_bytes <= self._low):
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._inbox.clear()
            self._loop.call_soon(self._protocol.connection_lost, error)


def join(client: PipeEnd, server: PipeEnd) -> None:
    """Make two ends one connection."""
    client.other = server
    server.other = client
