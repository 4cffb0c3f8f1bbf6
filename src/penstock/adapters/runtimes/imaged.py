"""Tasks as runtimes with images want them: an engine says what runs, the miner's settings say in which.

Our own workers are started by the interpreter that runs the agent; in an image it is at another place.
A cluster chooses its cards itself, so that it is told how many and not which.
"""

import sys
from dataclasses import dataclass, replace

from penstock.kit.runtime import Ending, Running, Runtime, Task

PYTHON = "/opt/penstock/bin/python3"
"""In images that deploy/container/Containerfile makes; PATH is that of the engine's environment."""


@dataclass(frozen=True, slots=True)
class Imaged:
    """Implements `kit.runtime.Runtime` over another one, for the engines of one kind.

    python: the interpreter in the image that has penstock.
    """

    runtime: Runtime
    image: str
    python: str = PYTHON

    @property
    def kind(self) -> str:
        return self.runtime.kind

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        return await self.runtime.launch(self.dressed(task), deadline_ms=deadline_ms)

    def dressed(self, task: Task) -> Task:
        """The task in its image. Always the same for the same task, or adoption would fail."""
        program, *others = task.argv or ("",)
        argv = (self.python if program == sys.executable else program, *others)
        needs = task.needs
        if self.kind == "kubernetes":
            needs = replace(needs, gpu_uuids=())
        return replace(task, image=task.image or self.image, argv=argv, needs=needs)

    async def list(self) -> tuple[Running, ...]:
        return await self.runtime.list()

    async def beat(self) -> None:
        await self.runtime.beat()

    async def wait(self, name: str) -> Ending:
        return await self.runtime.wait(name)

    async def logs(self, name: str, *, bytes_max: int) -> str:
        return await self.runtime.logs(name, bytes_max=bytes_max)

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        await self.runtime.stop(name, deadline_ms=deadline_ms)
