"""The runtime port: where a miner's engines run, whatever the machine or cluster.

A runtime starts, lists and stops **tasks**: one task is one engine (one process, container, job or
placement group) that answers HTTP at an address. Tasks outlive the agent that launched them: after
the agent was killed its next life finds them by `list` and takes them over, because `launch` of a
task that already runs returns it. A task that no agent has asked for during `orphan_ms` ends by
itself, so that nothing runs for ever for nobody.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from penstock.spec.canon import digest

TASK_NAME_CHARS_MAX = 63
"""A DNS label: what every runtime can use as a name."""
TASK_STDIN_BYTES_MAX = 1 << 20
BEAT_EVERY_MS = 20_000
ORPHAN_MS = 120_000
"""A task that no agent has asked for during this time ends by itself."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Reach(Enum):
    """What network a task has besides the loopback that it serves on."""

    NONE = "none"
    """It answers who calls it and calls nobody."""
    OWN = "own"
    """Nobody outside either, but its processes may call each other on a loopback of their own."""
    HOST = "host"
    """What the machine has. For engines that must fetch something or talk among nodes."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task may use. 0 means that the runtime sets no bound of its own.

    gpus: how many; `gpu_uuids`, when not empty, says which. nodes: machines that work as one.
    """

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_uuids: tuple[str, ...] = ()
    nodes: int = 1
    files_max: int = 1024
    reach: Reach = Reach.NONE


@dataclass(frozen=True, slots=True)
class Task:
    """An engine to run. Two tasks of one name and one content are the same task.

    argv: the program, never through a shell; `{port}` in it is replaced by the port to serve on.
    image: the container image for runtimes that need one, "" where the program is on the machine.
    env: the whole environment. stdin: written once at the start (secrets and settings stay out of
    the process list). readable, writable: what it sees of the disk beside the system itself.
    announces: True when it chooses its own port and says so in one JSON line `{"address": ...}` on
    stdout; otherwise it serves on `{port}`.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    image: str = ""
    stdin: bytes = b""
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    needs: Needs = field(default_factory=Needs)
    announces: bool = False
    stop_ms: int = 10_000
    """From the request to stop to the kill of everything it started."""


def task_content(task: Task) -> str:
    """SHA-256 (hex) of all that makes a task what it is: equal exactly when the tasks are equal.

    Raises NotCanonical for text that is not Unicode.
    """
    needs = task.needs
    return digest(
        "runtime-task",
        {
            "name": task.name,
            "argv": list(task.argv),
            "env": dict(task.env),
            "image": task.image,
            "stdin": task.stdin.hex(),
            "readable": [str(path) for path in task.readable],
            "writable": [str(path) for path in task.writable],
            "needs": {
                "cpu_milli": needs.cpu_milli,
                "memory_bytes": needs.memory_bytes,
                "gpus": needs.gpus,
                "gpu_uuids": list(needs.gpu_uuids),
                "nodes": needs.nodes,
                "files_max": needs.files_max,
                "reach": needs.reach.value,
            },
            "announces": task.announces,
            "stop_ms": task.stop_ms,
        },
    ).hex()


def check_task(task: Task) -> None:
    """Raises TaskFailed for a task that no runtime could run: name, program, sizes."""
    reason = ""
    if _LABEL.fullmatch(task.name) is None:
        reason = f"a task's name is a DNS label (a-z, 0-9, -, at most 63), got {task.name[:80]!r}."
    elif not task.argv or "\0" in "".join(task.argv):
        reason = "a task needs a program to run."
    elif len(task.stdin) > TASK_STDIN_BYTES_MAX:
        reason = f"its settings have {len(task.stdin)} bytes, over {TASK_STDIN_BYTES_MAX}."
    elif task.announces == any("{port}" in argument for argument in task.argv):
        reason = "a task either announces its address or takes a {port}."
    if reason:
        raise TaskFailed(name=task.name[:TASK_NAME_CHARS_MAX], reason=reason)


@dataclass(frozen=True, slots=True)
class Running:
    """A task that was started. `address` is its base URL, "" until it is known.

    content: digest of the Task it was started from; another digest is another task.
    """

    name: str
    content: str
    address: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ended. status: the exit status, negative for a signal, None when nobody knows."""

    status: int | None
    reason: str
    log_tail: str


class TaskFailed(Exception):
    """A task could not be started or is not what was asked for.

    name: the task. reason: what happened. log_tail: its last lines. remedy: what to do next.
    """

    def __init__(self, *, name: str, reason: str, log_tail: str = "", remedy: str = "") -> None:
        super().__init__(name, reason, log_tail, remedy)
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.name}: {self.reason} {self.remedy}".strip()


class RuntimeDown(Exception):
    """The runtime as a whole does not answer. Its tasks may well go on running."""


class Runtime(Protocol):
    """One way to run tasks on this node."""

    @property
    def kind(self) -> str:
        """`process`, `docker`, `kubernetes`, `ray`."""
        ...

    async def launch(self, task: Task, *, deadline_ms: int) -> Running:
        """Start it, or take over the one that runs under this name with the same content.

        One that runs under the name with another content is stopped first. Returns once the address
        is known (not yet that it answers). Raises TaskFailed and leaves nothing running.
        """
        ...

    async def list(self) -> tuple[Running, ...]:
        """What runs under this runtime's home, whoever launched it."""
        ...

    async def beat(self) -> None:
        """Say that an agent still cares; at least every 20 s. Orphans end after 120 s."""
        ...

    async def wait(self, name: str) -> Ending:
        """Until the task has ended, for any reason; at once when there is none."""
        ...

    async def logs(self, name: str, *, bytes_max: int) -> str:
        """The end of what it wrote, also for a while after it ended."""
        ...

    async def stop(self, name: str, *, deadline_ms: int) -> None:
        """Ask it to end, then end it with everything that it started. Twice is harmless."""
        ...
