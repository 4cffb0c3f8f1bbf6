"""The market that is tested: `penstock up` in a home of its own, as anyone would start it.

The suites name models of OpenAI's and Anthropic's. An operator who wants that sets aliases, so this
one does; the development engine answers at once and serves every modality.
"""

import json
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.cli.home import free_port

FOLDER = Path(__file__).parent
UP_DEADLINE_S = 240
SERVED_DEADLINE_S = 60
COMMAND_DEADLINE_S = 120
CHECK_EVERY_S = 0.2
# Suites run as fast as they can, all with one key from one address, and some try bad keys on purpose.
WORK = {"work_per_s": 10**9, "work_max": 10**10}
LIMITS: dict[str, Any] = {
    "key_limits": {"requests_per_s": 10_000, "burst_max": 20_000, **WORK},
    "payer_limits": WORK,
    "address_limits": {"failures_per_s": 1_000, "failures_max": 10_000, **WORK},
}


class NoMarket(Exception):
    """The market did not come up; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is tested: a gateway without `/v1`, and a key with money."""

    url: str
    key: str


@contextmanager
def running_market() -> Iterator[Target]:
    """A market with the chutes and aliases of this folder; down and gone at the end."""
    with tempfile.TemporaryDirectory(prefix="penstock-conformance-") as folder:
        home = Path(folder)
        _write_overrides(home)
        port = free_port(set())
        try:
            _penstock(home, "up", "--detach", "--port", str(port), deadline_s=UP_DEADLINE_S)
            target = Target(
                f"http://127.0.0.1:{port}", (home / "keys" / "api-key").read_text().strip()
            )
            for file in sorted((FOLDER / "chutes").glob("*.toml")):
                _penstock(home, "deploy", str(file), deadline_s=COMMAND_DEADLINE_S)
            _wait_served(target)
            yield target
        finally:
            _penstock(home, "down", deadline_s=COMMAND_DEADLINE_S)


def aliases() -> dict[str, str]:
    """Alias -> chute, as the gateway's settings have them."""
    found = tomllib.loads((FOLDER / "aliases.toml").read_text())
    return {alias: chute for chute, names in found.items() for alias in names}


def _write_overrides(home: Path) -> None:
    folder = home / "overrides"
    folder.mkdir()
    gateway = {**LIMITS, "aliases": aliases()}
    (folder / "gateway.json").write_text(json.dumps(gateway))


def _penstock(home: Path, *arguments: str, deadline_s: int) -> None:
    """Raises NoMarket with what the command said."""
    argv = [sys.executable, "-m", "penstock.cli.main", *arguments, "--home", str(home)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)
    if done.returncode:
        raise NoMarket(f"penstock {arguments[0]}: {done.stdout}{done.stderr}".strip())


def _wait_served(target: Target) -> None:
    """Until the gateway knows an instance of every model that is tested. Raises NoMarket."""
    wanted = {"tiny-chat", "minilm", *aliases().values()}
    end_s = time.monotonic() + SERVED_DEADLINE_S
    lacking = wanted
    while time.monotonic() < end_s:
        lacking = wanted - _served(target)
        if not lacking:
            return
        time.sleep(CHECK_EVERY_S)
    raise NoMarket(f"no instance in {SERVED_DEADLINE_S} s of: {', '.join(sorted(lacking))}")


def _served(target: Target) -> set[str]:
    try:
        with urllib.request.urlopen(f"{target.url}/v1/models", timeout=10) as answer:
            models = json.load(answer)["data"]
    except urllib.error.URLError:
        return set()
    return {model["id"] for model in models if model["instances"]}
