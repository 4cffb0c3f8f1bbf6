"""A server that answers with given bytes, right or wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.kit.world import HOST

from penstock.kit.ports import Network

DEADLINE_MS = 30_000


class Scripted(asyncio.Protocol):
    """A server that answers the n-th request of a connection with the n-th script."""

    def __init__(self, scripts: list[bytes | None]) -> None:
        self._scripts = iter(scripts)
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's do not inherit

    def data_received(self, data: bytes) -> None:
        script = next(self._scripts, None)
        if script is None:
            self.transport.close()
        else:
            self.transport.write(script)
            if b"connection: close" in script:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def scripted(
    network: Network, scripts: Callable[[int], list[bytes | None]]
) -> AsyncIterator[tuple[str, list[Scripted]]]:
    """(base URL, connections so far): connection n follows scripts(n)."""
    made: list[Scripted] = []

    def factory() -> Scripted:
        made.append(Scripted(scripts(len(made))))
        return made[-1]

    listener = await network.listen(HOST, 0, factory)
    try:
        yield f"http://{HOST}:{listener.port}", made
    finally:
        await listener.close()
        for one in made:
            one.transport.abort()
        for one in made:
            await one.lost.wait()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
