"""A whole market of real processes for tests: started by the command a newcomer types."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from penstock.cli.home import free_port

UP_DEADLINE_S = 240
STEP_DEADLINE_S = 90
CHECK_EVERY_S = 0.1


@dataclass
class RunningMarket:
    """One market under test. Commands run as subprocesses, exactly as a person would run them."""

    home: Path
    port: int

    def command(self, *arguments: str, deadline_s: int = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penstock.cli.main", *arguments, "--home", str(self.home)],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )

    def told(self, *arguments: str) -> Any:
        """The JSON object of a command that must succeed (status may say not ready)."""
        done = self.command(*arguments, "--json")
        assert done.stdout, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def status(self) -> Any:
        return self.told("status")

    def pid(self, station: str) -> int:
        """The process number of a station that runs now."""
        return int(self.until(lambda: self._pid(station), f"{station} runs"))

    def _pid(self, station: str) -> int | None:
        for one in self._state().get("stations", []):
            if one["name"] == station and one["pid"] is not None:
                return int(one["pid"])
        return None

    def pids(self) -> dict[str, int | None]:
        """The process numbers of all stations."""
        return {one["name"]: one["pid"] for one in self._state().get("stations", [])}

    def kill(self, station: str) -> int:
        """Kill -9, and the number of the process that was killed."""
        pid = self.pid(station)
        os.kill(pid, signal.SIGKILL)
        return pid

    def is_back(self, station: str, old_pid: int) -> bool:
        return any(
            one["name"] == station and one["state"] == "ready" and one["pid"] not in {old_pid, None}
            for one in self._state().get("stations", [])
        )

    def url(self, station: str) -> str:
        return str(self._state()["urls"][station])

    def _state(self) -> Any:
        """What the supervisor last wrote: the same as `status` says, without a process each time."""
        try:
            return json.loads((self.home / "state.json").read_text())
        except FileNotFoundError:
            return {}

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_key(self) -> str:
        return (self.home / "keys" / "api-key").read_text().strip()

    def ask(self, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        """One request to the gateway."""
        headers = {"authorization": f"Bearer {self.api_key if key is None else key}"}
        method = "GET" if body is None else "POST"
        with httpx.Client(timeout=60) as client:
            content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            return client.request(method, self.gateway + path, content=content, headers=headers)

    def chat(self, text: str, **options: Any) -> httpx.Response:
        message = {"role": "user", "content": text}
        body = {"model": "tiny-chat", "messages": [message], "temperature": 0, **options}
        return self.ask("/v1/chat/completions", body)

    def ledger(self, path: str) -> Any:
        with httpx.Client(timeout=30) as client:
            reply = client.get(self.url("ledger") + path)
        return reply.json() if reply.status_code == 200 else None

    def logged(self, order_id: str) -> Any:
        """The receipt document of an order once it is in the log."""
        return self.until(
            lambda: self.ledger(f"/v1/receipts/{order_id}"), f"{order_id} is in the log"
        )

    def identities(self, *names: str) -> list[str]:
        """Who these stations are."""
        from penstock.adapters.keyfile import load_or_create_key

        return [
            load_or_create_key(self.home / "keys" / f"{name}.json", os.urandom).identity
            for name in names
        ]

    def market_ms(self) -> int:
        """The market's time."""
        with httpx.Client(timeout=30) as client:
            return int(client.get(self.url("market") + "/v1/info").json()["now_ms"])

    @property
    def supervisor_pid(self) -> int:
        return int(self._state()["supervisor_pid"])

    def up_at_once(self, count: int, *options: str) -> list[subprocess.CompletedProcess[str]]:
        """So many `up --detach` in this home at the same moment, and what each of them said."""
        arguments = ("up", "--detach", "--port", str(self.port), *options)
        with ThreadPoolExecutor(count) as pool:
            running = [
                pool.submit(self.command, *arguments, deadline_s=UP_DEADLINE_S)
                for _ in range(count)
            ]
            return [one.result() for one in running]

    def until(
        self, condition: Callable[[], Any], what: str, deadline_s: int = STEP_DEADLINE_S
    ) -> Any:
        """Wait for something to become true; its value. The deadline only ends a hopeless test."""
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            try:
                found = condition()
            except httpx.HTTPError:
                found = None
            if found:
                return found
            time.sleep(CHECK_EVERY_S)
        raise AssertionError(f"not in {deadline_s} s: {what}\n{self._last_words()}")

    def wait_settled(self, epoch: int) -> None:
        self.until(
            lambda: (self.ledger("/v1/epochs") or {}).get("settled", -1) >= epoch,
            f"epoch {epoch} is settled",
            deadline_s=300,
        )

    def _last_words(self) -> str:
        lines = []
        for file in sorted((self.home / "logs").glob("*.log")):
            tail = file.read_text(errors="replace").splitlines()[-3:]
            lines += [f"{file.stem}: {line}" for line in tail]
        return "\n".join(lines)


@contextmanager
def running_market(home: Path, *options: str) -> Iterator[RunningMarket]:
    """`penstock up --detach` with these options; `penstock down` at the end, whatever happened."""
    market = RunningMarket(home, free_port(set()))
    done = market.command(
        "up", "--detach", "--port", str(market.port), *options, deadline_s=UP_DEADLINE_S
    )
    try:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{market._last_words()}"
        yield market
    finally:
        market.command("down")
