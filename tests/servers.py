"""Real servers for tests: started from the same adapters as in production, in a folder of the test."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.adapters.child_process import ChildProcess
from penstock.adapters.embedded_nats import NatsServer
from penstock.adapters.embedded_postgres import PostgresServer

READY_DEADLINE_MS = 60_000
STOP_DEADLINE_MS = 20_000

Server = PostgresServer | NatsServer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RunningServer:
    """A server with the verbs of a fault test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._child: ChildProcess | None = None

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    async def start(self) -> None:
        await self.server.prepare()
        self._child = await ChildProcess.start(self.server.command)
        await self.server.wait_ready(deadline_ms=READY_DEADLINE_MS)

    async def kill(self) -> None:
        """Kill -9 of the first process only, as the kernel's out-of-memory killer would."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGKILL)
        await self._child.wait()

    async def stop(self) -> int:
        assert self._child is not None
        return await self._child.terminate(deadline_ms=STOP_DEADLINE_MS)


@contextmanager
def serving(server: Server) -> Iterator[RunningServer]:
    """A server for a whole session, apart from the event loops of the single tests.

    Its loop has a thread of its own, because a fixture may be asked for from inside a running loop.
    The thread lives as long as the server: Linux ties a child to the thread that started it.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers", daemon=True)
    thread.start()
    running = RunningServer(server)
    try:
        asyncio.run_coroutine_threadsafe(running.start(), loop).result(READY_DEADLINE_MS / 1000)
        try:
            yield running
        finally:
            stopping = asyncio.run_coroutine_threadsafe(running.stop(), loop)
            stopping.result(STOP_DEADLINE_MS / 1000)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def postgres_in(home: Path) -> PostgresServer:
    return PostgresServer(home, free_port())


def nats_in(home: Path) -> NatsServer:
    return NatsServer(home, free_port())
