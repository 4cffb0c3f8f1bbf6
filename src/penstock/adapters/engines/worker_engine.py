"""Engines that are workers of our own (see worker.py, llamacpp_worker.py), as tasks of a runtime.

A worker has its settings from stdin, so that nothing of them shows in the process list, and chooses its
port itself.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from penstock.adapters.engines.dialect import Dialect, Launch
from penstock.adapters.engines.served import ServedEngine
from penstock.kit.ports import Network
from penstock.kit.runtime import Needs, Runtime, Task


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
    gpu_uuids: tuple[str, ...] = ()


class WorkerEngine(ServedEngine):
    """Implements `kit.engine.Engine`. env: the environment of the worker (PATH, CUDA settings)."""

    def __init__(
        self,
        worker: Worker,
        *,
        runtime: Runtime,
        network: Network,
        env: Mapping[str, str],
        name: str = "",
    ) -> None:
        dialect = worker_dialect(worker, env)
        super().__init__(dialect, runtime=runtime, network=network, name=name)


def worker_dialect(worker: Worker, env: Mapping[str, str]) -> Dialect:
    """A worker as the runtimes see it."""

    def launch(name: str) -> Launch:
        settings = worker.prepare()
        task = Task(
            name=name,
            argv=(sys.executable, "-m", worker.module),
            env={**env, **worker.env},
            # Whoever holds the task ends it; its stdin is closed once it was read.
            stdin=msgspec.json.encode({**msgspec.structs.asdict(settings), "tethered": False})
            + b"\n",
            readable=named_paths(settings),
            needs=Needs(gpus=len(worker.gpu_uuids), gpu_uuids=worker.gpu_uuids),
            announces=True,
        )
        return Launch(task)

    return Dialect(
        title=worker.title,
        model=worker.model,
        launch=launch,
        remedy=worker.remedy,
        is_llama=worker.is_llama,
    )


def named_paths(settings: msgspec.Struct) -> tuple[Path, ...]:
    """The files and folders that the settings name, and what they link to: the worker reads no other."""
    named = [value for value in msgspec.structs.asdict(settings).values() if isinstance(value, str)]
    paths = [Path(value) for value in named if value.startswith("/") and Path(value).exists()]
    return tuple(dict.fromkeys((*paths, *(path.resolve() for path in paths))))
