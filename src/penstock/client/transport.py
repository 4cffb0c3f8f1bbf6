"""How the client's requests travel: over sockets, or to the fake of `penstock.client.testing`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Incoming(Protocol):
    """A reply whose body is read as it comes."""

    status: int

    def header(self, name: str) -> str: ...

    def chunks(self, *, idle_deadline_ms: int) -> AsyncIterator[bytes]: ...

    async def read(self, *, bytes_max: int, idle_deadline_ms: int) -> bytes: ...


class Transport(Protocol):
    """How requests travel: kit.wire's HttpClient, or the fake of `penstock.client.testing`."""

    def open_stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        head_deadline_ms: int,
    ) -> AbstractAsyncContextManager[Incoming]: ...

    async def close(self) -> None: ...


def sockets() -> Transport:
    """Real connections, pooled and kept alive."""
    from penstock.kit.wire.client import HttpClient
    from penstock.kit.wire.sockets import Sockets

    return HttpClient(Sockets())
