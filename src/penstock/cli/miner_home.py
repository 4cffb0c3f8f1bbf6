"""A miner's home on this machine, and how its agent is asked: over HOME/agent.sock."""

import asyncio
import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from penstock.cli.api import Refused, call
from penstock.cli.errors import Stop
from penstock.cli.home import read_json
from penstock.kit.errors import WireError
from penstock.kit.wire.local_sockets import LocalSockets
from penstock.miner.control import SOCKET_FILE

DEFAULT_HOME = "~/.penstock/miner"
AGENT = "http://agent"
NO_AGENT = 3
"""The exit code when no agent runs in the home."""


@dataclass(frozen=True, slots=True)
class MinerHome:
    """Paths are derived on access; nothing is made until somebody writes."""

    path: Path

    @classmethod
    def at(cls, folder: str) -> "MinerHome":
        return cls(Path(folder).expanduser().resolve())

    @property
    def config_file(self) -> Path:
        return self.path / "miner.json"

    @property
    def wish_file(self) -> Path:
        """What `up` was last told: the next `up` goes on with it."""
        return self.path / "up.json"

    @property
    def key_file(self) -> Path:
        return self.path / "key.json"

    @property
    def delegation_file(self) -> Path:
        return self.path / "delegation.json"

    @property
    def log_file(self) -> Path:
        return self.path / "agent.log"

    @property
    def socket_file(self) -> Path:
        return self.path / SOCKET_FILE

    @property
    def flag(self) -> str:
        """What the next command must be given to find this home, quoted for a shell."""
        is_default = self == MinerHome.at(DEFAULT_HOME)
        return "" if is_default else f" --home {shlex.quote(str(self.path))}"

    def make(self) -> None:
        """Make the folder, for its owner only. Raises Stop."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise Stop(
                f"cannot use {self.path} as home", why=str(error), then="choose another: --home DIR"
            ) from error

    def wish(self) -> dict[str, Any]:
        """What `up` was last told, {} if it never was."""
        return read_json(self.wish_file)

    def config(self) -> dict[str, Any]:
        """The agent's configuration, {} if there is none yet."""
        return read_json(self.config_file)


def miner_home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --home and hands the command a MinerHome."""

    @click.option(
        "--home",
        "folder",
        default=DEFAULT_HOME,
        show_default=True,
        envvar="PENSTOCK_MINER_HOME",
        help="The miner's folder on this machine.",
    )
    @functools.wraps(command)
    def with_home(folder: str, **arguments: Any) -> Any:
        return command(home=MinerHome.at(folder), **arguments)

    return with_home


async def ask_agent(home: MinerHome, method: str, path: str, *, body: object = None) -> Any:
    """The agent's answer. Raises Refused, WireError."""
    network = LocalSockets(home.socket_file)
    return await call(method, AGENT + path, body=body, network=network)


def asked_agent(home: MinerHome, method: str, path: str, *, body: object = None) -> Any:
    """`ask_agent` for commands: every failure becomes a Stop."""
    try:
        return asyncio.run(ask_agent(home, method, path, body=body))
    except Refused as error:
        raise Stop(f"the agent refused ({error.code})", why=error.message) from error
    except WireError as error:
        raise Stop(
            f"no miner runs in {home.path}",
            then=f"penstock miner up{home.flag}",
            exit_code=NO_AGENT,
        ) from error


async def is_running(home: MinerHome) -> bool:
    """Does an agent answer in this home?"""
    try:
        await ask_agent(home, "GET", "/v1/maintenance")
    except (Refused, WireError):
        return False
    return True
