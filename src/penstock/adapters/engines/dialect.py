"""How one kind of inference server differs from the others: its task, and its words for what all do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.kit.engine import Headers, Sleep
from penstock.kit.runtime import Task

READ_BYTES_PER_MS = 100_000
"""From a slow disk; weights that are cached come ten times as fast."""
COMPILE_MS = 600_000
"""Kernels and graphs are compiled at the first start on a machine."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One control call: POST unless `method` says otherwise. `body` becomes JSON."""

    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Naps:
    """How an engine is put to sleep and woken, call by call."""

    suspend: Callable[[Sleep], tuple[Ask, ...]]
    resume: Callable[[Sleep], tuple[Ask, ...]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """How LoRA adapters come and go."""

    load: Callable[[str, Path], Ask]
    unload: Callable[[str], Ask]


@dataclass(frozen=True, slots=True)
class Launch:
    """The task that runs the engine, and how long its start may take beyond what the caller allows."""

    task: Task
    start_ms: int = 0


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine to be: `title` is what people call it, `model` its name in requests.

    `launch` makes the task of that name; it may take seconds, runs in a thread and raises EngineFailed.
    `remedy` is said when it does not start and nothing better is known. `health` answers 200 when it is
    up ("" where only the list of models tells). `headers` go with every request.
    """

    title: str
    model: str
    launch: Callable[[str], Launch]
    remedy: str
    is_llama: bool = False
    health: str = "/health"
    headers: Headers = ()
    naps: Naps | None = None
    adapters: Adapters | None = None


def start_ms(weights: Path) -> int:
    """How long a big engine may take from its start to its first answer: by the size of its weights."""
    return COMPILE_MS + 2 * weights_bytes(weights) // READ_BYTES_PER_MS


def weights_bytes(weights: Path) -> int:
    """The size of a file, or of all files in a folder."""
    if weights.is_file():
        return weights.stat().st_size
    return sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
