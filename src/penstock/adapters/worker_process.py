"""One worker of a station that runs in several processes: it inherits a socket, our standard error,
and our environment, tells on its standard output when it serves, and dies with us (see tether.py).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from penstock.adapters import tether

READY_WORD = b"ready"


class WorkerProcess:
    """A started worker. Make it with `start`; implements the gateway's `Child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, argv: Sequence[str], *, fd: int) -> "WorkerProcess":
        """Start a program by its path, with the file descriptor `fd`. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", tether.__file__),
            *(str(os.getpid()), str(int(signal.SIGKILL)), "-1", "-1", "--"),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(fd,),
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status (negative: the signal that ended it), None while it runs."""
        return self._process.returncode

    async def ready(self) -> int | None:
        """Wait for `tell_ready`: the port it named. None when the worker ended before."""
        assert self._process.stdout is not None, "its standard output is ours"
        while line := await self._process.stdout.readline():
            word, _, port = line.partition(b" ")
            if word == READY_WORD:
                return int(port)
        return None

    async def wait(self) -> int:
        """Wait for ever for the end; returns the exit status."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the worker; one that has already ended is left alone."""
        if self.status is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return  # it ended a moment ago; wait() will say so


def tell_ready(port: int) -> None:
    """Called in the worker: it serves, and tells about itself on this port of the loopback."""
    os.write(sys.stdout.fileno(), READY_WORD + b" %d\n" % port)
