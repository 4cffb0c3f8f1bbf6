"""The agent's process, as `penstock miner up` starts, watches and ends it."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from penstock.adapters import tether
from penstock.adapters.child_process import LOG_BYTES_MAX, rotate_log
from penstock.cli.api import Refused
from penstock.cli.errors import Stop
from penstock.cli.miner_home import MinerHome, ask_agent
from penstock.cli.plan import PASSED_ON
from penstock.cli.world import pause, stopwatch
from penstock.kit.environment import inherited
from penstock.kit.errors import WireError

SOCKET_DEADLINE_S = 60
SERVE_DEADLINE_S = 600
IDLE_S = 12
"""So long without an instance: the market wants nothing of this machine now."""
CHECK_EVERY_S = 0.25
WORDS_MAX = 8


@dataclass(slots=True)
class Agent:
    """A started agent."""

    home: MinerHome
    process: subprocess.Popen[bytes]
    said_before: int

    @classmethod
    def start(cls, home: MinerHome, *, tethered: bool) -> "Agent":
        """In a session of its own, so that a terminal's Ctrl-C reaches only us; tethered, it drains when
        we die.
        """
        rotate_log(home.log_file, bytes_max=LOG_BYTES_MAX)
        argv = [sys.executable, "-m", "penstock.miner.app", "--config", str(home.config_file)]
        if tethered:
            numbers = (str(os.getpid()), str(int(signal.SIGTERM)), "-1", "-1")
            argv = [sys.executable, "-I", "-S", tether.__file__, *numbers, "--", *argv]
        with home.log_file.open("ab") as log:
            said_before = log.tell()
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home.path,
                env={**inherited(PASSED_ON), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        home.log_file.chmod(0o600)
        return cls(home, process, said_before)

    def wait_listening(self) -> None:
        """Until its socket answers. Raises Stop."""
        started = stopwatch()
        while stopwatch() - started < SOCKET_DEADLINE_S:
            if self.frame() is not None:
                return
            self.check()
            pause(CHECK_EVERY_S)
        self.end()
        raise Stop("the miner did not come up", why=self.words(), then=self.then)

    def frame(self) -> dict[str, Any] | None:
        """What it is like now; None while it does not answer."""
        try:
            found = asyncio.run(ask_agent(self.home, "GET", "/v1/frame"))
        except (Refused, WireError):
            return None
        return found if isinstance(found, dict) else None

    def check(self) -> None:
        """Raises Stop when it has ended."""
        if self.process.poll() is not None:
            raise Stop("the miner ended", why=self.words(), then=self.then)

    def end(self) -> int:
        """Ask it to drain, and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    @property
    def then(self) -> str:
        return f"less {self.home.log_file}; penstock miner test{self.home.flag}"

    def words(self) -> str:
        """The last that it wrote in this life."""
        try:
            said = self.home.log_file.read_bytes()[self.said_before :]
        except OSError:
            return ""
        return "\n".join(said.decode(errors="replace").strip().splitlines()[-WORDS_MAX:])
