"""An engine that is our own child process: started, probed, drained, stopped. It restarts nothing.

What runs there is a worker (see worker_pipe.py): llama.cpp's own server, or a frame (worker.py) with
the skills of one model.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from penstock.adapters.child_process import ChildProcess, Command
from penstock.adapters.engines.gauges import parse_gauges
from penstock.adapters.engines.probe import FRESH_LINKS, NothingServed, Probe
from penstock.adapters.engines.worker_pipe import LOG_BYTES_MAX, WorkerReady
from penstock.adapters.errors import ChildExited, NotReady
from penstock.kit.engine import Capability, EngineExit, EngineFailed, EngineStats
from penstock.kit.errors import WireError
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient

STATS_DEADLINE_MS = 5_000
DRAIN_CHECK_MS = 50
TERMINATE_DEADLINE_MS = 5_000

_serial = itertools.count(1)  # two engines of one process must not share a log file


@dataclass(frozen=True, slots=True)
class Worker:
    """What to start. `title` is what people call it, `model` its name in requests.

    `prepare` finds or makes what the worker needs and returns its settings; it may take seconds, runs
    in a thread and raises EngineFailed. `remedy` is said when the worker does not start. `env` is
    added to the worker's environment.
    """

    title: str
    model: str
    module: str
    prepare: Callable[[], msgspec.Struct]
    remedy: str
    env: Mapping[str, str] = field(default_factory=dict)
    is_llama: bool = False


class WorkerEngine:
    """Implements `kit.engine.Engine`. One object may be started again after its process ended.

    home: a folder for the log. env: the environment of the worker (PATH, CUDA settings).
    """

    def __init__(
        self, worker: Worker, *, network: Network, home: Path, env: Mapping[str, str]
    ) -> None:
        self._worker = worker
        self._client = HttpClient(network, FRESH_LINKS)
        self._env = {**env, **worker.env}
        self._log = home / "logs" / f"{worker.model}-{os.getpid()}-{next(_serial)}.log"
        self._child: ChildProcess | None = None
        self._stopping = False
        self._address = ""
        self._capabilities: frozenset[Capability] = frozenset()

    @property
    def address(self) -> str:
        return self._address

    @property
    def model(self) -> str:
        return self._worker.model

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities

    async def start(self, *, deadline_ms: int) -> None:
        self._stopping = False
        started = False
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                settings = await asyncio.to_thread(self._worker.prepare)
                child = self._child = await ChildProcess.start(self._command(settings))
                self._address = await self._wait_address(child, deadline_ms)
                is_llama = self._worker.is_llama
                probe = Probe(self._client, self._address, self.model, is_llama=is_llama)
                self._capabilities = await probe.capabilities()
            started = True
        except TimeoutError as error:
            raise self._failed(f"was not ready after {deadline_ms} ms") from error
        except (ChildExited, NotReady) as error:
            raise self._failed("ended before it was ready") from error
        except WireError as error:
            raise self._failed(f"broke off during the test requests: {error}") from error
        except NothingServed as error:
            raise self._failed(f"answered no test request: {error.why}") from error
        finally:
            if not started and self._child is not None:
                await self._child.kill()

    async def stats(self) -> EngineStats:
        if not self._address or self._child is None or self._child.status is not None:
            return EngineStats(running=0, waiting=0, ready=False)
        try:
            reply = await self._client.call(
                "GET", f"{self._address}/metrics", deadline_ms=STATS_DEADLINE_MS
            )
        except WireError:
            return EngineStats(running=0, waiting=0, ready=False)
        gauges = parse_gauges(reply.body.decode(errors="replace"))
        return EngineStats(gauges.running, gauges.waiting, ready=reply.status == 200)

    async def wait_exit(self) -> EngineExit:
        assert self._child is not None, "wait_exit before start"
        status = await self._child.wait()
        if self._stopping:
            return EngineExit(wanted=True, reason="stopped", log_tail="", remedy="")
        return EngineExit(
            wanted=False,
            reason=f"{self._worker.title} serving {self.model} ended with {ending(status)}.",
            log_tail=self._child.log_tail(),
            remedy=remedy_for(status, self._log),
        )

    async def stop(self, *, deadline_ms: int) -> None:
        if self._child is None:
            return
        self._stopping = True
        await self._drain(deadline_ms)
        await self._child.terminate(deadline_ms=TERMINATE_DEADLINE_MS)
        await self._client.close()
        self._log.unlink(missing_ok=True)

    async def _drain(self, deadline_ms: int) -> None:
        """Wait until it is idle, at most the deadline: llama.cpp has no drain of its own."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while await self._is_busy():  # noqa: ASYNC110 - another process, no event
                    await asyncio.sleep(DRAIN_CHECK_MS / 1000)
        except TimeoutError:
            return  # What still runs is cut; the miner front records it as its own failure.

    async def _is_busy(self) -> bool:
        now = await self.stats()
        return now.ready and now.running + now.waiting > 0

    async def _wait_address(self, child: ChildProcess, deadline_ms: int) -> str:
        """The address from the worker's one line. Raises ChildExited, NotReady or EngineFailed."""

        async def has_spoken() -> bool:
            return ready_line(child) is not None

        await child.wait_ready(has_spoken, deadline_ms=deadline_ms)
        line = ready_line(child)
        assert line is not None
        if line.error:
            raise self._failed(f"could not load the model ({line.error})")
        return line.address

    def _command(self, settings: msgspec.Struct) -> Command:
        return Command(
            argv=(sys.executable, "-m", self._worker.module),
            env=self._env,
            cwd=Path("/"),
            log=self._log,
            program=f"{self._worker.title} worker",
            log_bytes_max=LOG_BYTES_MAX,
            stdin=msgspec.json.encode(settings) + b"\n",
        )

    def _failed(self, what: str) -> EngineFailed:
        return EngineFailed(
            reason=f"{self._worker.title} serving {self.model} {what}.",
            log_tail=self._child.log_tail() if self._child is not None else "",
            remedy=self._worker.remedy,
        )


def ready_line(child: ChildProcess) -> WorkerReady | None:
    """The worker's JSON line, which is the last thing it writes before it serves."""
    for line in reversed(child.log_tail().splitlines()):
        if line.startswith('{"address":') and line.endswith("}"):
            return msgspec.json.decode(line, type=WorkerReady)
    return None


def ending(status: int) -> str:
    """An exit status as people say it: `status 1`, `signal SIGKILL`."""
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def remedy_for(status: int, log: Path) -> str:
    if status == -signal.SIGKILL:
        return "Something killed it, often the kernel for lack of memory: run dmesg | tail"
    return f"Read its log: less {log}"
