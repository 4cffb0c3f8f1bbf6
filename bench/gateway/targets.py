"""What all gateways of the bench have in common: where they stand and what is in front of what."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway.processes import Cores

PEERS = Path(__file__).resolve().parents[1] / ".peers"
"""Where peers from PyPI live, each in a virtual environment of its own."""
HOST = "127.0.0.1"


class Missing(Exception):
    """A peer cannot be measured on this machine; says why and what to run."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One run: a folder for configurations and logs, the upstream's port, the cores."""

    folder: Path
    upstream_port: int
    cores: Cores
    say: Callable[[str], None] = field(default=print)

    def home(self, name: str) -> Path:
        """A folder for one target."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def upstream(self) -> str:
        return f"http://{HOST}:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway that runs. `pids` are the roots of its process trees."""

    name: str
    version: str
    port: int
    pids: tuple[int, ...]
    api_key: str = "sk-bench"


Start = Callable[[Ground], AbstractContextManager[Target]]
"""Raises Missing or NotStarted."""
