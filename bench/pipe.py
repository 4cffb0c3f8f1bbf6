"""The least a relay can do: copy bytes between two sockets. `python -m bench.pipe PORT TO_PORT`.

An anchor for ratios in the same run: no HTTP, no keys, no counting, in the same language and on the
same event loop as the gateway. What the gateway costs above this is what its duties cost.
"""

import asyncio
import signal
import sys
from typing import cast

import uvloop

HOST = "127.0.0.1"


class End(asyncio.Protocol):
    """One end of a pair: what comes in goes out at the other."""

    def __init__(self, to_port: int, other: "End | None" = None) -> None:
        self.to_port = to_port
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []
        self.dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.other is None:
            self.dialling = asyncio.get_running_loop().create_task(self._dial())

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        _, far = await loop.create_connection(lambda: End(self.to_port, self), HOST, self.to_port)
        self.other = far
        for data in self.waiting:
            self.data_received(data)


async def serve(port: int, to_port: int) -> None:
    """Relay until SIGTERM; says `ready` once it listens."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    async with await loop.create_server(lambda: End(to_port), HOST, port):
        print("ready", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
