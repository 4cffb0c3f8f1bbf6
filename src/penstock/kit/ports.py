"""The ports: what a station needs from the world, as small protocols.

The real ones live in `penstock.adapters` and `penstock.kit.wire`; the simulator passes others.
Every port that can fail raises one of the errors named in its docstring and nothing else.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Time. `asyncio.sleep` and timeouts follow the loop; these are for stamps and spans."""

    def now_ms(self) -> int:
        """Wall clock, Unix milliseconds."""
        ...

    def mono_us(self) -> int:
        """Monotonic microseconds from an arbitrary zero."""
        ...


class Sign(Protocol):
    """A working key."""

    @property
    def identity(self) -> str:
        """`<scheme>:<public key hex>`."""
        ...

    def sign(self, digest: bytes) -> str:
        """Sign a 32-byte domain-separated digest; returns lower-case hex."""
        ...


Verify = Callable[[str, bytes, str], bool]
"""(identity, digest, signature hex) -> does the signature hold? Never raises."""

Entropy = Callable[[int], bytes]
"""n -> n unpredictable bytes (os.urandom in production, a seeded stream in the simulator)."""


class BusDown(Exception):
    """The bus did not store or answer in time. The caller keeps what it had and tries again."""


class StoreDown(Exception):
    """The database did not answer in time. What was in flight may or may not have been kept:
    repeat it (every write is idempotent by id).
    """


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event handed to a consumer group; redelivered until `ack` is awaited."""

    subject: str
    data: bytes
    attempt: int
    ack: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a consumer group stands. Events are numbered as they are stored, from 1: the newest one
    is `stored`, and the group has acknowledged all up to `settled`.
    """

    stored: int
    settled: int


class Events(Protocol):
    """Durable events: stored on publish, delivered at least once to each consumer group, in order."""

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        """Return once stored. The same `event_id` within 2 minutes is stored once. Raises BusDown."""
        ...

    def consume(self, subject: str, *, group: str) -> AsyncIterator[Delivery]:
        """Events of `subject` (may end in `.>`) for this durable group, from where it left off."""
        ...

    async def progress(self, subject: str, *, group: str) -> Progress:
        """How far the group of a `consume` has come, redeliveries included. Raises BusDown."""
        ...


class Board(Protocol):
    """Shared state: the last value per key, for all who watch (offers, manifests, targets)."""

    async def put(self, key: str, value: bytes) -> None:
        """Set `key` (dots separate levels). Empty value removes it. Raises BusDown."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """All present (key, value) under `prefix`, then each change for ever; b"" means removed."""
        ...


Answer = Callable[[bytes], Awaitable[bytes]]


class Ask(Protocol):
    """Question and answer between stations of one operator."""

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        """The answer of whoever serves `subject`. Raises BusDown when nobody answers in time."""
        ...

    def answer(self, subject: str, handler: Answer) -> AbstractAsyncContextManager[None]:
        """Serve `subject` while the context is open; one of several servers gets each question."""
        ...


class Bus(Events, Board, Ask, Protocol):
    """All three, as one adapter (NATS) gives them."""


class DiskFull(Exception):
    """The store refused to take more. Nothing was written: the old file still stands."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A small value under a key. `revision` is above 0 and grows with each change of the key."""

    key: str
    value: bytes
    revision: int


class Conflict(Exception):
    """Somebody else changed the cell first. Read it and decide anew."""


class Cells(Protocol):
    """Small values that several stations change: each change names the revision it was made from."""

    async def read(self, key: str) -> Cell | None:
        """The present value; None if there is none, or its time is over. Raises BusDown."""
        ...

    async def swap(self, key: str, value: bytes, *, revision: int, keep_ms: int) -> int:
        """Put `value` in the place of `revision` (0: of nothing), for so long; its revision.

        An empty value removes the cell. Raises Conflict, DiskFull, BusDown.
        """
        ...

    async def under(self, prefix: str) -> list[Cell]:
        """All cells below the level `prefix`, in the order of their keys. Raises BusDown."""
        ...


class BlobMissing(Exception):
    """There is no blob of this name: never stored, dropped, or its time is over."""


class Blobs(Protocol):
    """Large values, written once: whole or not at all."""

    async def store(self, name: str, parts: AsyncIterator[bytes], *, keep_ms: int) -> int:
        """Keep what `parts` yield for so long; how many bytes that is. Raises DiskFull, BusDown, and
        whatever `parts` raises; then nothing is kept.
        """
        ...

    def fetch(self, name: str) -> AsyncIterator[bytes]:
        """Its bytes in pieces; may be held open for as long as the reader likes. Raises BlobMissing,
        BusDown.
        """
        ...

    async def drop(self, name: str) -> None:
        """Remove it if it is there. Raises BusDown."""
        ...


class Journals(Protocol):
    """Values that grow by whole entries, each on disk before `append` returns."""

    async def append(self, name: str, entry: bytes, *, keep_ms: int) -> None:
        """Add an entry (not empty), also to a journal that is new. Raises DiskFull, BusDown."""
        ...

    def replay(self, name: str) -> AsyncIterator[bytes]:
        """The entries in the order of their storing; none of a journal that is not there. An entry
        whose writer was not told that it is stored may come, or come twice. Raises BusDown.
        """
        ...

    async def forget(self, name: str) -> None:
        """Remove it if it is there. Raises BusDown."""
        ...


class Stores(Cells, Blobs, Journals, Protocol):
    """All three, as one adapter (NATS) gives them."""


class Files(Protocol):
    """A folder of published files; names use `/`."""

    def write(self, name: str, data: bytes) -> None:
        """Replace `name` atomically and durably. Raises DiskFull."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted."""
        ...


class Network(Protocol):
    """Byte streams by (host, port): sockets in production, memory in the simulator."""

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        tls: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial; with `tls`, verify the peer's certificate against `host`. Raises OSError."""
        ...

    async def listen(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.Protocol],
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> "Listener":
        """Accept connections until the listener is closed. Port 0 picks one. Raises OSError.

        With `reuse_port` other processes may listen on the same port and share its connections.
        """
        ...


class Listener(Protocol):
    @property
    def port(self) -> int: ...

    async def close(self) -> None:
        """Stop accepting; open connections go on."""
        ...
