"""The agent's hand in a Ray cluster: `python -m penstock.adapters.runtimes.ray_driver`, one JSON line a call.

A process of its own, because Ray's client ends its process when the cluster is lost, brings some 100 MB
and its own threads, and may have to be another Python than the agent's: every node of a Ray cluster runs
the same versions. Settings are the first line of stdin; it ends when stdin closes.
"""

import asyncio
import os
import socket
import sys
from typing import Any, Literal

import msgspec

from penstock.adapters.runtimes.ray_group import Group
from penstock.adapters.runtimes.ray_rank import check_ray_task
from penstock.adapters.runtimes.task_wire import (
    WIRE_BYTES_MAX,
    Told,
    read_task,
    read_told,
    told_failure,
)
from penstock.kit.runtime import Ending, Running, TaskFailed
from penstock.kit.tasks import Errands

ANSWER_MS = 10_000
GREET_S = 5
GONE_LOOKS_MAX = 200
GONE_LOOK_MS = 50


Deed = Literal["launch", "list", "beat", "wait", "logs", "stop"]


class DriverSettings(msgspec.Struct, frozen=True):
    """address: as in `ray.init`. home_id: whose tasks these are."""

    address: str
    home_id: str
    orphan_ms: int


class Call(msgspec.Struct, frozen=True):
    """One question of the agent. spelled: the task to launch, as JSON text."""

    id: int
    do: Deed
    name: str = ""
    spelled: str = ""
    content: str = ""
    started_ms: int = 0
    number: int = 0


class Answer(msgspec.Struct, frozen=True):
    """The answer to the call of that id. text: for `logs`. lost: why the cluster did not answer."""

    id: int
    told: Told = Told()
    text: str = ""
    lost: str = ""


class Driver:
    """Answers calls about the groups of one home."""

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._space = f"penstock-{settings.home_id}"

    async def answer(self, call: Call) -> Answer:
        from ray.exceptions import GetTimeoutError, RayActorError, RayError

        try:
            return await self._do(call)
        except TaskFailed as error:
            return Answer(call.id, told_failure(error))
        except RayActorError as error:
            return Answer(call.id, Told(failed=f"its group was lost ({error.error_msg})."))
        except (RayError, GetTimeoutError, TimeoutError, ConnectionError) as error:
            return Answer(call.id, lost=f"{type(error).__name__}: {error}"[:1000])

    async def _do(self, call: Call) -> Answer:
        """Raises TaskFailed, RayError, TimeoutError."""
        told, text = Told(), ""
        match call.do:
            case "launch":
                told = await self._launch(call)
            case "list":
                told = Told(running=await self._list())
            case "beat":
                await asyncio.gather(*(self._beat(name) for name in self._names()))
            case "wait":
                told = Told(ending=await self._wait(call.name))
            case "logs":
                text = await self._logs(call.name, call.number)
            case "stop":
                await self._stop(call.name, "it was stopped", call.number)
        return Answer(call.id, told, text)

    async def _launch(self, call: Call) -> Told:
        """call.number: the grace of one that is in the way."""
        import ray

        spelled = call.spelled.encode()
        check_ray_task(read_task(spelled))
        group = self._group(call.name)
        if group is not None:
            there = await self._where(group)
            if there is None or there.content != call.content:
                await self._remove(call.name, group, call.number)
                group = None
        if group is None:
            fresh = {
                "name": call.name,
                "content": call.content,
                "address": "",
                "started_ms": call.started_ms,
            }
            kind = ray.remote(Group).options(
                name=call.name,
                namespace=self._space,
                lifetime="detached",
                num_cpus=0,
                max_restarts=0,
                max_concurrency=1000,
            )
            group = kind.remote(self._settings.home_id, fresh, self._settings.orphan_ms)
        return read_told(await group.launch.remote(spelled))

    async def _list(self) -> tuple[Running, ...]:
        groups = [self._group(name) for name in self._names()]
        found = await asyncio.gather(*(self._where(group) for group in groups if group is not None))
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.name))

    async def _where(self, group: Any) -> Running | None:
        """None when it has ended or is lost."""
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                told = read_told(await group.where.remote())
        except RayActorError:
            return None
        return told.running[0] if told.running else None

    async def _beat(self, name: str) -> None:
        from ray.exceptions import RayActorError

        group = self._group(name)
        try:
            if group is not None:
                async with asyncio.timeout(ANSWER_MS / 1000):
                    await group.beat.remote()
        except RayActorError:
            return  # Lost meanwhile: `wait` tells who cares.

    async def _wait(self, name: str) -> Ending:
        from ray.exceptions import RayActorError

        group = self._group(name)
        if group is None:
            return Ending(None, "there is no such group.", "")
        try:
            ending = read_told(await group.wait.remote()).ending
        except RayActorError as error:
            return Ending(None, f"its group was lost ({error.error_msg})"[:1000], "")
        assert ending is not None
        return ending

    async def _logs(self, name: str, bytes_max: int) -> str:
        from ray.exceptions import RayActorError

        group = self._group(name)
        try:
            return "" if group is None else str(await group.logs.remote(bytes_max))
        except RayActorError:
            return ""  # Its words went with it; Ray's own log of the actor is on its node.

    async def _stop(self, name: str, reason: str, grace_ms: int) -> None:
        from ray.exceptions import RayActorError

        group = self._group(name)
        try:
            if group is not None:
                await group.stop.remote(reason, grace_ms)
        except RayActorError:
            return  # It is gone, with all that was its own.

    async def _remove(self, name: str, group: Any, grace_ms: int) -> None:
        """End the task and the actor, so that the name is free."""
        import ray

        await self._stop(name, "another task takes its name", grace_ms)
        ray.kill(group)
        for _ in range(GONE_LOOKS_MAX):
            if self._group(name) is None:
                return
            await asyncio.sleep(GONE_LOOK_MS / 1000)
        raise TaskFailed(name=name, reason="the group before it does not go away.")

    def _group(self, name: str) -> Any:
        import ray

        try:
            return ray.get_actor(name, namespace=self._space)
        except ValueError:
            return None

    def _names(self) -> list[str]:
        import ray

        named = ray.util.list_named_actors(all_namespaces=True)
        return [one["name"] for one in named if one["namespace"] == self._space]


async def serve(settings: DriverSettings, out: int) -> None:
    """Answer until stdin closes; calls overlap."""
    driver = Driver(settings)
    errands = Errands()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=WIRE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def handle(line: bytes) -> None:
        answer = await driver.answer(msgspec.json.decode(line, type=Call))
        # A whole line at once, from this one thread.
        os.write(out, msgspec.json.encode(answer) + b"\n")

    while line := await reader.readline():
        errands.start("call", handle(line))
    await errands.close(deadline_ms=ANSWER_MS)


def greet(address: str) -> None:
    """Raises OSError when nothing listens there: Ray itself would try for half a minute."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=GREET_S).close()


def first_line() -> bytes:
    """Byte by byte: what a buffer took beyond it would be lost for `serve`."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit(1)
        line += byte
    return line


def main() -> None:
    import ray

    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    settings = msgspec.json.decode(first_line(), type=DriverSettings)
    try:
        greet(settings.address)
        ray.init(
            address=settings.address,
            namespace=f"penstock-{settings.home_id}",
            log_to_driver=False,
            configure_logging=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        os.write(out, msgspec.json.encode(Answer(0, lost=f"{error}"[:1000])) + b"\n")
        raise SystemExit(1) from error
    os.write(out, msgspec.json.encode(Answer(0)) + b"\n")
    asyncio.run(serve(settings, out))


if __name__ == "__main__":
    main()
