"""What a worker process and its parent say to each other: a line of settings in, a line of result out.

The settings come on stdin, so that nothing of them shows in the process list; the one JSON line on
stdout says `{"address": ..., "version": ...}` or `{"error": ...}`; everything else goes to stderr.
A tethered worker lives as long as its stdin stays open: when its parent ends, even by kill -9, so
does it. One that is not tethered is kept and ended by whoever holds it (a runtime).
"""

import os
import resource
import sys
import threading
from typing import NoReturn, TypeVar

import msgspec

LOG_BYTES_MAX = 16 << 20
LOG_SPARE_BYTES = 1 << 20

S = TypeVar("S", bound=msgspec.Struct)


class WorkerReady(msgspec.Struct, frozen=True):
    """The one line on stdout: `address` when it serves, `error` when it will not."""

    address: str = ""
    version: str = ""
    error: str = ""


class Parent:
    """The other end of the pipes. Make it before anything else may print."""

    def __init__(self) -> None:
        bound_log()
        # Keep stdout for our one line; what C prints there goes to stderr instead.
        self._report = os.dup(1)
        os.dup2(2, 1)

    def settings(self, kind: type[S]) -> S:
        """The line of settings. Raises msgspec.ValidationError, msgspec.DecodeError."""
        return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)

    def serving(self, address: str, *, version: str) -> None:
        """Say that we serve there."""
        self._say(WorkerReady(address=address, version=version))

    def failed(self, why: str) -> NoReturn:
        """Say that we will not serve, and end the process with status 1."""
        self._say(WorkerReady(error=why))
        raise SystemExit(1)

    def tie(self) -> None:
        """From now on end when the parent ends (while C++ holds the interpreter, the tether does it)."""
        threading.Thread(target=_end_when_stdin_closes, daemon=True).start()

    def _say(self, line: WorkerReady) -> None:
        os.write(self._report, msgspec.json.encode(line) + b"\n")
        os.close(self._report)


def bound_log() -> None:
    """Anybody's bad requests make log lines: past the bound, writing to any file just fails.

    The spare is for the next run, which rotates a log longer than LOG_BYTES_MAX before it starts.
    """
    bytes_max = LOG_BYTES_MAX + LOG_SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))


def _end_when_stdin_closes() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)
