"""The mock upstream: the C program, and beside it the process that holds the miner's key."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.gateway.native import program
from bench.gateway.processes import Cores, Program, running, wait_open, wait_until
from bench.ground import free_port

START_DEADLINE_S = 30


@contextmanager
def upstream(folder: Path, cores: Cores, *, is_miner: bool) -> Iterator[tuple[int, int]]:
    """(port, process id) of the mock; `is_miner` gives it the sidecar."""
    port = free_port()
    argv = [str(program("mock")), str(port)]
    with ExitStack() as stack:
        if is_miner:
            socket, log = folder / "sidecar", folder / "sidecar.log"
            words = (sys.executable, "-m", "bench.gateway.sidecar", str(socket))
            child = stack.enter_context(running(Program(words, log, cores.ends, env={})))
            wait_until(socket.exists, child, log=log, deadline_s=START_DEADLINE_S)
            argv.append(str(socket))
        log = folder / "mock.log"
        mock = stack.enter_context(running(Program(argv, log, cores.ends, env={})))
        wait_open(mock, port, log=log, deadline_s=START_DEADLINE_S)
        yield port, mock.pid
