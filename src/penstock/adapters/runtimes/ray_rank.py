"""One rank of a group: an actor that runs its node's part of a task under the process runtime there.

So a rank has the same holder, sandbox and bounded log as an engine of a single machine. When this actor
dies in whatever way, its holder hears no beat any more and ends the rank after RANK_ORPHAN_MS. The actor
also brings the engine's loopback port to the node's address, because engines listen on loopbacks only.
"""

import asyncio
import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.adapters.runtimes.process import ProcessConfig, ProcessRuntime
from penstock.adapters.runtimes.task_folder import remove_tree
from penstock.adapters.runtimes.task_wire import Told, read_task, spell, told_failure
from penstock.kit.clock import SystemClock
from penstock.kit.environment import inherited
from penstock.kit.runtime import Reach, Running, Task, TaskFailed
from penstock.kit.tasks import Errands

RANK_ORPHAN_MS = 4_000
BEAT_EVERY_MS = 1_000
LAUNCH_DEADLINE_MS = 24 * 3600 * 1000
"""Whoever asked sets the deadline and kills the group; this one only bounds a forgotten actor."""
CONNECTIONS_MAX = 512
PIECE_BYTES_MAX = 1 << 16
DIAL_DEADLINE_MS = 5_000


class Rank:
    """An actor's methods; all but `__init__` are coroutines on its one loop."""

    def __init__(self, place: str, rank: int, nodes: int) -> None:
        """place: a name of this rank that no other on this machine has, good for a folder."""
        self._place = place
        self._rank = rank
        self._nodes = nodes
        self._name = ""
        self._errands = Errands()
        self._runtime: ProcessRuntime | None = None
        self._open = 0

    async def meet(self) -> tuple[str, int]:
        """This node's address, and a port that is free on it: for ranks to find the first one."""
        address = node_address()
        with socket.create_server((address, 0)) as one:
            return address, one.getsockname()[1]

    async def launch(self, spelled: bytes, leader: str, leader_port: int) -> bytes:
        """Run this node's part; `Told` with where it serves, or why it does not."""
        task = self._part(read_task(spelled), leader, leader_port)
        self._name = task.name
        config = ProcessConfig(path=self._path(), orphan_ms=RANK_ORPHAN_MS)
        try:
            home = own_folder(self._place)
            self._runtime = await ProcessRuntime.open(
                home, config, clock=SystemClock(), entropy=os.urandom
            )
            self._errands.start("rank-beat", self._beat(self._runtime))
            running = await self._runtime.launch(task, deadline_ms=LAUNCH_DEADLINE_MS)
        except TaskFailed as error:
            return spell(told_failure(error))
        except OSError as error:
            return spell(Told(failed=f"{type(error).__name__} on its node: {error}."))
        if self._rank == 0:
            running = replace(running, address=await self._bring_out(running))
        return spell(Told(running=(running,)))

    async def wait(self) -> bytes:
        """How this rank ended, once it has."""
        assert self._runtime is not None
        return spell(Told(ending=await self._runtime.wait(self._name)))

    async def logs(self, bytes_max: int) -> str:
        if self._runtime is None:
            return ""
        return await self._runtime.logs(self._name, bytes_max=bytes_max)

    async def stop(self, deadline_ms: int) -> bytes:
        """End it and say how it ended."""
        if self._runtime is None:
            return spell(Told())
        await self._runtime.stop(self._name, deadline_ms=deadline_ms)
        return await self.wait()

    async def leave(self) -> None:
        """Remove its folder, log and all, once it has ended."""
        if self._runtime is not None:
            self._runtime.close()
            await asyncio.to_thread(remove_tree, own_folder(self._place))

    def _part(self, task: Task, leader: str, leader_port: int) -> Task:
        """The task with what this rank is told: who it is, where the first one is, which GPUs it has."""
        import ray

        env = {
            **task.env,
            "PENSTOCK_RANK": str(self._rank),
            "PENSTOCK_NODES": str(self._nodes),
            "PENSTOCK_LEADER": leader,
            "PENSTOCK_LEADER_PORT": str(leader_port),
            "PENSTOCK_NODE": node_address(),
        }
        if task.needs.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ray.get_gpu_ids()))
        return replace(task, env=env)

    def _path(self) -> str:
        return inherited(["PATH"]).get("PATH", os.defpath)

    async def _beat(self, runtime: ProcessRuntime) -> None:
        while True:
            await runtime.beat()
            await asyncio.sleep(BEAT_EVERY_MS / 1000)

    async def _bring_out(self, running: Running) -> str:
        """Serve the engine's port at the node's address; returns the base URL there."""
        port = int(running.address.rpartition(":")[2].rstrip("/"))
        host = node_address()

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open += 1
            try:
                if self._open <= CONNECTIONS_MAX:
                    await join(reader, writer, port)
            finally:
                self._open -= 1
                writer.close()

        self._server = await asyncio.start_server(joined, host, 0, limit=PIECE_BYTES_MAX)
        outside = self._server.sockets[0].getsockname()[1]
        return f"http://[{host}]:{outside}" if ":" in host else f"http://{host}:{outside}"


def node_address() -> str:
    """Where Ray's other nodes reach this one."""
    import ray

    where: Any = ray.util
    return str(where.get_node_ip_address())


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carry bytes both ways until either side has had enough."""
    try:
        async with asyncio.timeout(DIAL_DEADLINE_MS / 1000):
            inner, outer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE_BYTES_MAX)
    except OSError:  # a timeout is one
        return  # It does not listen (yet): the caller sees a closed connection.
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(carry(reader, outer))
            group.create_task(carry(inner, writer))
    finally:
        outer.close()


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the source ends. One that breaks off has ended, too: both are closed then."""
    try:
        while data := await source.read(PIECE_BYTES_MAX):
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        source.feed_eof()
        target.close()


def own_folder(place: str) -> Path:
    """A folder of this user's alone among the machine's temporary files. Raises OSError."""
    base = Path(tempfile.gettempdir()) / f"penstock-ranks-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{base} is somebody else's or open to others: remove it")
    return base / place


def check_ray_task(task: Task) -> None:
    """Raises TaskFailed for what this runtime does not do."""
    needs = task.needs
    reason = remedy = ""
    if task.image:
        reason = "the ray runtime starts programs, not images."
        remedy = (
            "Give Ray's nodes the image (its cluster launcher or KubeRay does), or use kubernetes."
        )
    elif needs.gpu_uuids:
        reason = "Ray chooses the GPUs of a node by itself."
        remedy = "Say how many (gpus), not which."
    elif needs.nodes > 1 and needs.reach is not Reach.HOST:
        reason = (
            f"{needs.nodes} nodes must call each other, which reach {needs.reach.value} forbids."
        )
        remedy = "Set its reach to host."
    if reason:
        raise TaskFailed(name=task.name, reason=reason, remedy=remedy)
