"""A market's home on this machine: where its keys, data, logs and state lie.

`state.json` is written by the supervisor alone, whole and atomically; everybody else reads it. The
lock is held by the supervisor as long as it lives, so a stale state can always be told from a
running market.
"""

import fcntl
import json
import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.cli.errors import Stop

DEFAULT_HOME = "~/.penstock"
PORTS_BYTES_MAX = 65_536
PORT_END = 65_536
STATE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Home:
    """Paths are derived on access; nothing is made until somebody writes."""

    path: Path

    @classmethod
    def at(cls, folder: str) -> "Home":
        return cls(Path(folder).expanduser().resolve())

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def public(self) -> Path:
        return self.path / "public"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def ports_file(self) -> Path:
        return self.path / "ports.json"

    @property
    def api_key_file(self) -> Path:
        return self.keys / "api-key"

    @property
    def flag(self) -> str:
        """What the next command must be given to find this home, quoted for a shell."""
        return "" if self == Home.at(DEFAULT_HOME) else f" --home {shlex.quote(str(self.path))}"

    def key_file(self, name: str) -> Path:
        return self.keys / f"{name}.json"

    def log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make the folders; keys are for their owner only. Raises Stop."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.keys, self.config, self.logs, self.public, self.models):
                folder.mkdir(exist_ok=True)
            self.keys.chmod(0o700)
            self.config.chmod(0o700)
        except OSError as error:
            raise Stop(
                f"cannot use {self.path} as home", why=str(error), then="choose another: --home DIR"
            ) from error

    def lock(self) -> int | None:
        """Take the lock for this process's life; None when another process holds it."""
        handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        return handle

    def supervisor_pid(self) -> int | None:
        """The process that holds the lock, None when no market runs here."""
        try:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(handle, 20).decode(errors="replace").strip()
            return int(said) if said.isdigit() else None
        finally:
            os.close(handle)
        return None

    def write_state(self, state: Mapping[str, Any]) -> None:
        write_json(self.state_file, state, mode=0o600)

    def read_state(self) -> dict[str, Any]:
        """The last state written, {} when there is none or it cannot be read."""
        return read_json(self.state_file)

    def ports(
        self, names: list[str], *, gateway_port: int, rows: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """A port for each process: the gateway's as asked, the others once chosen and then kept.

        `rows` are names with a count: so many ports that follow each other, the first one is told. A
        kept port that is taken today is chosen anew. Raises Stop when the gateway's is taken.
        """
        if not is_port_free(gateway_port):
            raise Stop(
                f"port {gateway_port} is taken",
                why="another program listens there",
                then=f"penstock up --port {free_port({gateway_port})}{self.flag}, or stop that program",
            )
        kept = {name: int(port) for name, port in read_json(self.ports_file).items()}
        kept["gateway"] = gateway_port
        used = {gateway_port}
        counts = dict.fromkeys(names, 1) | dict(rows or {})
        for name, count in counts.items():
            port = kept.get(name, 0)
            if name != "gateway" and not (port and is_row_free(port, count, used)):
                port = free_port(used, count=count)
            kept[name] = port
            used |= set(range(port, port + count))
        write_json(self.ports_file, kept, mode=0o600)
        return {name: kept[name] for name in counts}


def is_row_free(port: int, count: int, used: set[int]) -> bool:
    """Are this port and the following ones nobody's?"""
    row = range(port, port + count)
    return row.stop <= PORT_END and all(one not in used and is_port_free(one) for one in row)


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(used: set[int], *, count: int = 1) -> int:
    """A port, chosen by the system, that nobody listens on now, and nobody on the `count - 1` after it."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if is_row_free(port, count, used):
            return port
    raise Stop("no free port on this machine", then="close some programs and try again")


def write_json(path: Path, value: Mapping[str, Any], *, mode: int) -> None:
    """Replace the file whole."""
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as file:
        json.dump(value, file, indent=1)
    fresh.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """An object, {} when the file is absent or is not one."""
    try:
        value = json.loads(path.read_bytes()[:STATE_BYTES_MAX])
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
