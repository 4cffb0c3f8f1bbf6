"""Where the contract tests of runtimes run: one ground for each kind. Add a kind to `GROUNDS`.

A ground outlives the agents on it: `agent` makes a runtime as a starting agent would, again and again.
"""

import asyncio
import contextlib
import io
import os
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from penstock.adapters.runtimes import offspring
from penstock.adapters.runtimes.process import ProcessConfig, ProcessRuntime
from penstock.adapters.runtimes.sandbox import look
from penstock.kit.clock import SystemClock
from penstock.kit.errors import WireError
from penstock.kit.runtime import Needs, Reach, Runtime, Task
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.sim.runtime import FakeMachine, FakeRuntime, Program, Stage

PROGRAM = Path(__file__).parent / "runtime_program.py"
DEADLINE_MS = 60_000
SHORT_ORPHAN_MS = 1_500
DOCKER_SOCKETS = ("PENSTOCK_TEST_DOCKER", "/var/run/docker.sock")
IMAGE = "penstock-test-empty:latest"


class Ground(Protocol):
    """Everything that the tests need of one kind."""

    async def agent(self) -> Runtime:
        """A new agent on the same home; the agent before is dead and said nothing."""
        ...

    def task(self, mode: str, **fields: Any) -> Task:
        """A task that runs tests/runtime_program.py in that mode."""
        ...

    async def ask(self, address: str) -> dict[str, Any]:
        """What the program answers there, once it does."""
        ...


def make_task(mode: str, **fields: Any) -> Task:
    """For runtimes that run programs of this machine."""
    announces = mode != "serve"
    words = (sys.executable, "-I", "-S", str(PROGRAM), mode, *(() if announces else ("{port}",)))
    given: dict[str, Any] = {
        "name": "engine-1",
        "argv": words,
        "env": {"PATH": os.defpath, "COLOUR": "blue"},
        "stdin": b"settings",
        "readable": (PROGRAM,),
        "announces": announces,
        "stop_ms": 1_000,
    }
    return Task(**{**given, **fields})


async def ask(address: str) -> dict[str, Any]:
    client = HttpClient(Sockets())
    try:
        while True:
            try:
                reply = await client.call("GET", f"{address}/", deadline_ms=DEADLINE_MS)
                return msgspec.json.decode(reply.body, type=dict[str, Any])
            except WireError:
                await asyncio.sleep(0.05)
    finally:
        await client.close()


@dataclass(slots=True)
class ProcessGround:
    """path: where bubblewrap is looked for; an empty one turns it off."""

    home: Path
    path: str
    orphan_ms: int
    reach: Reach = Reach.NONE
    opened: list[ProcessRuntime] = field(default_factory=list)

    async def agent(self) -> ProcessRuntime:
        for dead in self.opened:
            dead.close()
        config = ProcessConfig(path=self.path, orphan_ms=self.orphan_ms)
        runtime = await ProcessRuntime.open(
            self.home, config, clock=SystemClock(), entropy=os.urandom
        )
        self.opened.append(runtime)
        return runtime

    def task(self, mode: str, **fields: Any) -> Task:
        return make_task(mode, **{"needs": Needs(reach=self.reach), **fields})

    async def ask(self, address: str) -> dict[str, Any]:
        return await ask(address)


@asynccontextmanager
async def process_ground(
    home: Path, orphan_ms: int, *, path: str = "", reach: Reach = Reach.NONE
) -> AsyncIterator[ProcessGround]:
    ground = ProcessGround(home / "runtime", path, orphan_ms, reach)
    try:
        yield ground
    finally:
        runtime = await ground.agent()
        for running in await runtime.list():
            await runtime.stop(running.name, deadline_ms=100)
        runtime.close()


@asynccontextmanager
async def bounded(tmp_path: Path, **config: Any) -> AsyncIterator[ProcessRuntime]:
    """A runtime with bounds of its own; nothing of it is left afterwards."""
    runtime = await ProcessRuntime.open(
        tmp_path / "runtime",
        ProcessConfig(path="", **config),
        clock=SystemClock(),
        entropy=os.urandom,
    )
    try:
        yield runtime
    finally:
        for running in await runtime.list():
            await runtime.stop(running.name, deadline_ms=100)
        runtime.close()


def script(code: str, **fields: Any) -> Task:
    """A task that runs this Python, with the rest of the arguments after it."""
    argv = (sys.executable, "-I", "-S", "-c", code, "{port}")
    return make_task("serve", **{"argv": argv, **fields})


def alive(marker: str) -> list[int]:
    """Processes with this in their environment."""
    found = []
    for pid, _ in offspring.parents():
        try:
            if marker.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue  # It ended while we looked.
    return found


async def gone(marker: str) -> None:
    while alive(marker):
        await asyncio.sleep(0.02)


async def _serve(stage: Stage) -> int:
    stage.say("mode serve")
    if stage.task.announces:
        stage.announce("http://127.0.0.1:39999")
    await stage.stopping.wait()
    return 0


async def _refuse(stage: Stage) -> int:
    stage.announce(error="the model is broken")
    return 1


async def _die(stage: Stage) -> int:
    stage.say("last words")
    return 3


async def _mute(stage: Stage) -> int:
    await stage.stopping.wait()
    return 0


async def _stubborn(stage: Stage) -> int:
    stage.announce("http://127.0.0.1:39998")
    await asyncio.Event().wait()
    return 0


PROGRAMS: dict[str, Program] = {
    "serve": _serve,
    "announce": _serve,
    "refuse": _refuse,
    "die": _die,
    "mute": _mute,
    "stubborn": _stubborn,
}


@dataclass(slots=True)
class FakeGround:
    machine: FakeMachine

    async def agent(self) -> FakeRuntime:
        return FakeRuntime(self.machine)

    def task(self, mode: str, **fields: Any) -> Task:
        whole = make_task(mode)
        argv = (mode, *whole.argv[5:])
        return make_task(mode, **{"argv": argv, **fields})

    async def ask(self, address: str) -> dict[str, Any]:
        for life in self.machine.lives.values():
            if life.running.address == address:
                task = life.stage.task
                return {"stdin": task.stdin.decode(), "env": dict(task.env)}
        raise AssertionError(f"nothing at {address}")


@asynccontextmanager
async def fake_ground(_home: Path, orphan_ms: int) -> AsyncIterator[FakeGround]:
    machine = FakeMachine(PROGRAMS, clock=SystemClock(), orphan_ms=orphan_ms)
    try:
        yield FakeGround(machine)
    finally:
        await machine.close()


@asynccontextmanager
async def wrapped_ground(home: Path, orphan_ms: int) -> AsyncIterator[ProcessGround]:
    """With bubblewrap and a loopback of its own, so behind the relay."""
    path = await bubblewrap_path()
    async with process_ground(home, orphan_ms, path=path, reach=Reach.OWN) as ground:
        yield ground


async def bubblewrap_path() -> str:
    """Skips the test where bubblewrap is missing or forbidden."""
    path = os.environ.get("PENSTOCK_TEST_BWRAP", os.environ.get("PATH", ""))
    if not (await look(path)).bubblewrap:
        pytest.skip("bubblewrap is not usable here: apt install bubblewrap")
    return path


def docker_socket() -> Path:
    """Skips the test where no container service answers."""
    named = os.environ.get(DOCKER_SOCKETS[0], DOCKER_SOCKETS[1])
    if not Path(named).is_socket():
        pytest.skip("no docker here: start one, or name its socket in PENSTOCK_TEST_DOCKER")
    pytest.importorskip("docker", reason="pip install 'penstock[docker]'")
    return Path(named)


@dataclass(slots=True)
class DockerGround:
    """The image is empty: the test's Python is bound into it from this machine."""

    home: Path
    socket: Path
    orphan_ms: int
    opened: list[Any] = field(default_factory=list)

    async def agent(self) -> Runtime:
        from penstock.adapters.runtimes.containers import ContainerConfig, ContainerRuntime

        for dead in self.opened:
            dead.close()
        config = ContainerConfig(self.socket, orphan_ms=self.orphan_ms)
        runtime = await ContainerRuntime.open(self.home, config, clock=SystemClock())
        self.opened.append(runtime)
        return runtime

    def task(self, mode: str, **fields: Any) -> Task:
        system = tuple(Path(p) for p in ("/usr", "/lib", "/lib64", "/bin") if Path(p).exists())
        argv = (os.path.realpath(sys.executable), *make_task(mode).argv[1:])
        given = {
            "image": IMAGE,
            "argv": argv,
            "readable": (*system, Path(sys.base_prefix), PROGRAM),
        }
        return make_task(mode, **{**given, **fields})

    async def ask(self, address: str) -> dict[str, Any]:
        return await ask(address)


@asynccontextmanager
async def docker_ground(home: Path, orphan_ms: int) -> AsyncIterator[DockerGround]:
    import docker

    socket = docker_socket()
    client = docker.DockerClient(base_url=f"unix://{socket}")
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc/empty"))
    name, _, tag = IMAGE.partition(":")
    client.api.import_image_from_data(empty.getvalue(), repository=name, tag=tag)
    ground = DockerGround(home / "runtime", socket, orphan_ms)
    try:
        yield ground
    finally:
        for runtime in ground.opened:
            label = f"io.penstock.home={runtime._id}"
            for container in client.api.containers(all=True, filters={"label": label}):
                # The warden may be quicker.
                with contextlib.suppress(docker.errors.APIError):
                    client.api.remove_container(container["Id"], force=True)
            for network in client.networks.list(filters={"label": label}):
                network.remove()
            runtime.close()
        client.close()


Factory = Callable[[Path, int], AbstractAsyncContextManager[Ground]]
GROUNDS: dict[str, Factory] = {
    "fake": fake_ground,
    "process": process_ground,
    "process-wrapped": wrapped_ground,
    "docker": docker_ground,
}
