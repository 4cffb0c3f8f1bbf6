"""The runtimes `docker` and `podman`: engines in containers, by the service's HTTP API (docker-py).

A container outlives the agent by itself; labels say whose it is and what it was made from, so that the
next agent finds it. Orphans are removed by the home's warden (warden.py). What a container may do is the
service's default minus all capabilities, with a read-only root, no new privileges, and for `Reach.NONE`
and `OWN` a network without a way out.
"""

import asyncio
import hashlib
import socket
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from penstock.adapters.runtimes import warden
from penstock.adapters.runtimes.announcement import Announcement, announced
from penstock.adapters.runtimes.container_form import (
    ANNOUNCES_LABEL,
    CONTENT_LABEL,
    HOME_LABEL,
    NAME_LABEL,
    PORT,
    STARTED_LABEL,
    ContainerBounds,
    container_form,
)
from penstock.adapters.runtimes.errors import NoContainers
from penstock.adapters.runtimes.sandbox import SOURCE
from penstock.kit.ports import Clock
from penstock.kit.runtime import (
    ORPHAN_MS,
    Ending,
    Reach,
    Running,
    Task,
    TaskFailed,
    check_task,
    task_content,
)

ANSWER_S = 60
LOOK_EVERY_MS = 250
TAIL_BYTES_MAX = 4096
TAIL_LINES_MAX = 2_000
HEAD_BYTES_MAX = 1 << 20
KILL_DEADLINE_MS = 10_000
ENDED_MAX = 32
THREADS = 4
CLOSED = {
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.enable_ip_masquerade": "false",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """socket: the service's, such as /var/run/docker.sock. kind: `docker` or `podman`."""

    socket: Path
    kind: str = "docker"
    bounds: ContainerBounds = field(default_factory=ContainerBounds)
    orphan_ms: int = ORPHAN_MS


class ContainerRuntime:
    """Implements `kit.runtime.Runtime`. Make it with `open`; `close` leaves the containers running.

    The library blocks, so that its calls run in a few threads of ours.
    """

    def __init__(self, home: Path, config: ContainerConfig, *, client: Any, clock: Clock) -> None:
        self._home = home
        self._config = config
        self._client = client
        self._clock = clock
        self._id = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="containers")
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    async def open(cls, home: Path, config: ContainerConfig, *, clock: Clock) -> "ContainerRuntime":
        """Greet the service. Raises NoContainers."""
        import docker

        def greet() -> Any:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The library forgets its socket when nobody answers; so see first that somebody does.
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(str(config.socket))
            return docker.DockerClient(
                base_url=f"unix://{config.socket}", version="auto", timeout=ANSWER_S
            )

        try:
            client = await asyncio.to_thread(greet)
        except (docker.errors.DockerException, OSError) as error:
            raise NoContainers(str(config.socket), str(error)) from error
        runtime = cls(home, config, client=client, clock=clock)
        await runtime.beat()
        await runtime._start_warden()
        return runtime

    def close(self) -> None:
        """Let go of the service; the containers go on until they are orphans."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    @property
    def kind(self) -> str:
        return self._config.kind

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        from docker.errors import DockerException

        check_task(task)
        content = task_content(task)
        async with self._turns[task.name]:
            try:
                async with asyncio.timeout(deadline_ms / 1000):
                    there = await self._find(task.name)
                    if there is not None and is_of(there, content):
                        return await self._address(there, task)
                    await self._clear(task.name)
                    return await self._start(task, content)
            except TimeoutError as error:
                raise await self._failed(
                    task.name, f"no address after {deadline_ms} ms."
                ) from error
            except (DockerException, OSError) as error:
                raise await self._failed(task.name, f"{kind_of(error)}: {error}") from error
            except asyncio.CancelledError:
                await self._kill(task.name)
                raise

    async def list(self) -> tuple[Running, ...]:
        found = await self._call(
            lambda: self._client.containers.list(filters=self._ours(), ignore_removed=True)
        )
        running = [read(one, await self._port(one)) for one in found]
        return tuple(sorted(running, key=lambda one: one.name))

    async def beat(self) -> None:
        (self._home / "beat").touch(mode=0o600)

    async def wait(self, name: str) -> Ending:
        while True:
            there = await self._find(name)
            if there is None:
                return Ending(None, "there is no such container.", "")
            if there.status not in {"running", "created", "paused"}:
                return await self._ending(there)
            await asyncio.sleep(LOOK_EVERY_MS / 1000)

    async def logs(self, name: str, *, bytes_max: int) -> str:
        there = await self._find(name)
        return "" if there is None else await self._tail(there, bytes_max)

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        async with self._turns[name]:
            there = await self._find(name)
            if there is not None and there.status == "running":
                await self._call(lambda: there.stop(timeout=max(1, deadline_ms // 1000)))

    async def _start(self, task: Task, content: str) -> Running:
        """Raises what the library raises, TaskFailed."""
        await self._have_image(task.image)
        network = "" if task.needs.reach is Reach.HOST else await self._closed_network()
        labels = {
            HOME_LABEL: self._id,
            NAME_LABEL: task.name,
            CONTENT_LABEL: content,
            ANNOUNCES_LABEL: "yes" if task.announces else "no",
            STARTED_LABEL: str(self._clock.now_ms()),
        }
        form = container_form(task, labels, network=network, bounds=self._config.bounds)
        there = await self._call(
            lambda: self._client.containers.create(name=self._full_name(task.name), **form)
        )
        await self._call(lambda: start_with(there, task.stdin))
        return await self._address(there, task)

    async def _address(self, there: Any, task: Task) -> Running:
        """Wait until it is known where it serves. Raises TaskFailed when the container ends before."""
        while True:
            await self._call(there.reload)
            said = await self._announcement(there)
            if said is not None and said.error:
                raise await self._failed(task.name, f"{said.error}.")
            if there.status != "running":
                ending = await self._ending(there)
                raise await self._failed(task.name, f"{ending.reason} before it had an address.")
            if said is not None:
                return read(there, said.port)
            await asyncio.sleep(LOOK_EVERY_MS / 1000)

    async def _port(self, there: Any) -> int:
        """Where it listens, 0 until that is known."""
        said = await self._announcement(there)
        return 0 if said is None else said.port

    async def _announcement(self, there: Any) -> Announcement | None:
        if there.labels.get(ANNOUNCES_LABEL) != "yes":
            return Announcement(port=PORT, error="")
        return announced(await self._head(there))

    async def _have_image(self, image: str) -> None:
        from docker.errors import ImageNotFound

        try:
            await self._call(lambda: self._client.images.get(image))
        except ImageNotFound:
            # A pull that the deadline overtakes goes on in its thread; the next launch finds it.
            await self._call(lambda: self._client.images.pull(image))

    async def _closed_network(self) -> str:
        """A bridge without a way out, of this home; its containers do not see each other."""
        name = f"penstock-{self._id}"

        def make() -> None:
            if not self._client.networks.list(names=[name]):
                self._client.networks.create(
                    name,
                    driver="bridge",
                    internal=True,
                    labels={HOME_LABEL: self._id},
                    options=CLOSED,
                )

        await self._call(make)
        return name

    async def _clear(self, name: str) -> None:
        """Remove the container of that name, and the oldest ended ones beyond the bound."""
        there = await self._find(name)
        if there is not None:
            await self._call(lambda: there.remove(force=True))
        ended = await self._call(
            lambda: self._client.containers.list(
                all=True,
                filters={**self._ours(), "status": ["exited"]},
                ignore_removed=True,
            )
        )
        for old in ended[ENDED_MAX:]:
            await self._call(old.remove)

    async def _failed(self, name: str, reason: str) -> TaskFailed:
        """Kill it and say why."""
        await self._kill(name)
        tail = await self.logs(name, bytes_max=TAIL_BYTES_MAX)
        remedy = f"See  {self.kind} logs {self._full_name(name)}"
        return TaskFailed(name=name, reason=reason, log_tail=tail, remedy=remedy)

    async def _kill(self, name: str) -> None:
        from docker.errors import APIError

        there = await self._find(name)
        if there is not None and there.status in {"running", "paused"}:
            try:
                await self._call(there.kill)
            except APIError:
                return  # It ended by itself meanwhile.

    async def _ending(self, there: Any) -> Ending:
        state = there.attrs["State"]
        status = int(state.get("ExitCode", 0))
        status = 128 - status if status > 128 else status
        why = f"it ended with status {status}" if status >= 0 else f"it ended by signal {-status}"
        if state.get("OOMKilled"):
            why = "it was killed for lack of memory"
        return Ending(status, why, await self._tail(there, TAIL_BYTES_MAX))

    async def _tail(self, there: Any, bytes_max: int) -> str:
        from docker.errors import APIError

        try:
            text: bytes = await self._call(lambda: there.logs(tail=TAIL_LINES_MAX))
        except APIError:
            return ""  # It is being removed, or never started: there is no log.
        return text[-bytes_max:].decode(errors="replace")

    async def _head(self, there: Any) -> bytes:
        text: bytes = await self._call(lambda: there.logs(stdout=True, stderr=False))
        return text[:HEAD_BYTES_MAX]

    async def _find(self, name: str) -> Any:
        """The container of that task, ended or not; None."""
        filters = self._ours(name)
        found = await self._call(
            lambda: self._client.containers.list(all=True, filters=filters, ignore_removed=True)
        )
        return found[0] if found else None

    def _ours(self, name: str = "") -> dict[str, Any]:
        labels = [f"{HOME_LABEL}={self._id}"]
        return {"label": [*labels, f"{NAME_LABEL}={name}"] if name else labels}

    def _full_name(self, name: str) -> str:
        return f"penstock-{self._id}-{name}"

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _start_warden(self) -> None:
        """A second one leaves at once."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", warden.__file__, str(SOURCE), str(self._home)),
            *(str(self._config.socket), f"{HOME_LABEL}={self._id}", str(self._config.orphan_ms)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={},
        )
        await process.wait()


def is_of(there: Any, content: str) -> bool:
    return bool(there.status == "running" and there.labels.get(CONTENT_LABEL) == content)


def read(there: Any, port: int) -> Running:
    """What its labels and its network say."""
    started = there.labels.get(STARTED_LABEL, "")
    return Running(
        name=there.labels.get(NAME_LABEL, ""),
        content=there.labels.get(CONTENT_LABEL, ""),
        address=address_of(there.attrs["NetworkSettings"], port) if port else "",
        started_ms=int(started) if started.isdecimal() else 0,
    )


def address_of(network: dict[str, Any], port: int) -> str:
    """The published port on this host's loopback; without one, its own address on the bridge."""
    published = (network.get("Ports") or {}).get(f"{port}/tcp") or []
    if published:
        return f"http://127.0.0.1:{int(published[0]['HostPort'])}"
    for joined in (network.get("Networks") or {}).values():
        if joined.get("IPAddress"):
            return f"http://{joined['IPAddress']}:{port}"
    return ""


def start_with(there: Any, stdin: bytes) -> None:
    """Start it, and write its settings where only it can read them."""
    pipe = there.attach_socket(params={"stdin": 1, "stream": 1})
    wire = getattr(pipe, "_sock", pipe)
    try:
        there.start()
        wire.sendall(stdin)
        # Half of it only: closing the whole would cut off what was not read yet.
        wire.shutdown(1)
    finally:
        pipe.close()
        wire.close()


def kind_of(error: Exception) -> str:
    return type(error).__name__
