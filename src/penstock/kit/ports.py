"""The ports: what a station needs from the world, as small protocols.

The real ones live in `penstock.adapters` and `penstock.kit.wire`; the simulator passes others.
Every port that can fail raises one of the errors named in its docstring and nothing else.
"""

import asyncio
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
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol]
    ) -> "Listener":
        """Accept connections until the listener is closed. Port 0 picks one. Raises OSError."""
        ...


class Listener(Protocol):
    @property
    def port(self) -> int: ...

    async def close(self) -> None:
        """Stop accepting; open connections go on."""
        ...
