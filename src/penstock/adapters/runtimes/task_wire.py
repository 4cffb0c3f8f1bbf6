"""A task and what became of it as JSON, for runtimes whose other half is in another process or machine."""

from pathlib import Path
from typing import Any

import msgspec

from penstock.kit.runtime import Ending, Running, Task, TaskFailed

WIRE_BYTES_MAX = 8 << 20
"""One line of JSON: a task with its settings (TASK_STDIN_BYTES_MAX in base 64), or a long log."""


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer to one call. Which fields are set depends on the call; `failed` excludes the others."""

    failed: str = ""
    log: str = ""
    remedy: str = ""
    running: tuple[Running, ...] = ()
    ending: Ending | None = None

    def one(self, name: str) -> Running:
        """The task that was started. Raises TaskFailed."""
        if self.failed or not self.running:
            why = self.failed or "it said nothing of its address."
            raise TaskFailed(name=name, reason=why, log_tail=self.log, remedy=self.remedy)
        return self.running[0]


def told_failure(error: TaskFailed) -> Told:
    return Told(failed=error.reason, log=error.log_tail, remedy=error.remedy)


def spell_task(task: Task) -> bytes:
    """Every field, paths as text."""
    return msgspec.json.encode(task, enc_hook=_spell_path)


def read_task(spelled: bytes) -> Task:
    """Raises msgspec.DecodeError, msgspec.ValidationError."""
    return msgspec.json.decode(spelled, type=Task, dec_hook=_read_path)


def spell(told: Told) -> bytes:
    return msgspec.json.encode(told)


def read_told(spelled: bytes) -> Told:
    """Raises msgspec.DecodeError, msgspec.ValidationError."""
    return msgspec.json.decode(spelled, type=Told)


def _spell_path(value: Any) -> str:
    assert isinstance(value, Path)
    return str(value)


def _read_path(kind: type, value: Any) -> Any:
    assert kind is Path
    return Path(value)
