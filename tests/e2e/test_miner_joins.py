"""A stranger's machine joins a market by one command, serves, earns, rests and leaves: real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.market import RunningMarket, running_market

from penstock.cli.miner_home import NO_AGENT

pytestmark = pytest.mark.slow  # a market of real processes, and a miner of its own


@dataclass
class Newcomer:
    """Somebody who knows a gateway's URL and nothing else of the market."""

    market: RunningMarket
    home: Path

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments), capture_output=True, text=True, timeout=240, check=False
        )

    def argv(self, *arguments: str) -> list[str]:
        words = ["miner", *arguments, "--home", str(self.home)]
        return [sys.executable, "-m", "penstock.cli.main", *words]

    def told(self, *arguments: str) -> Any:
        done = self.command(*arguments, "--json")
        assert done.stdout, f"{arguments}: {done.stderr}\n{self.log()}"
        return json.loads(done.stdout)

    def log(self) -> str:
        path = self.home / "agent.log"
        return path.read_text(errors="replace")[-2_000:] if path.exists() else "(no log)"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMarket]:
    home = tmp_path_factory.mktemp("market") / "home"
    with running_market(home, "--miners", "0", "--validators", "1") as running:
        yield running


@pytest.fixture
def newcomer(market: RunningMarket, tmp_path: Path) -> Iterator[Newcomer]:
    made = Newcomer(market, tmp_path / "m")
    try:
        yield made
    finally:
        made.command("drain")


def test_a_newcomer_is_fit_joins_serves_earns_and_leaves(newcomer: Newcomer) -> None:
    market = newcomer.market
    tested = newcomer.told("test", "--gateway", market.gateway, "--chutes", "tiny-chat")
    assert tested["fit"] is True, tested["findings"]
    marks = {one["check"]: one["mark"] for one in tested["findings"]}
    assert marks["engine"] in {"ok", "warn"}
    assert marks["market"] == marks["port"] == marks["reach"] == "ok"
    assert tested["forecast"]["chutes"] == ["tiny-chat"]

    up = newcomer.command(
        *("up", "--gateway", f"{market.gateway}/v1", "--chutes", "tiny-chat", "--detach"),
        *("--rent-usd-per-hour", "0.5"),
    )
    assert up.returncode == 0, up.stdout + up.stderr + newcomer.log()
    assert "Your miner serves." in up.stdout
    assert "tiny-chat" in up.stdout
    assert (newcomer.home / "key.json").stat().st_mode & 0o777 == 0o600
    assert (newcomer.home / "agent.sock").stat().st_mode & 0o777 == 0o600

    answer = market.until(lambda: _answered(market), "the newcomer answers")
    assert "Nairobi" in answer
    frame = market.until(lambda: _earning(newcomer), "its receipts count")
    assert frame["earnings"]["day"]["gross_nano"] > 0
    assert frame["instances"][0]["state"] == "serving"
    assert "tiny-chat" in newcomer.command("top", "--once").stdout

    again = newcomer.command("up")
    assert again.returncode == 0
    assert "already runs" in again.stdout

    books = market.until(lambda: _booked(newcomer), "the log has what it earned", deadline_s=240)
    assert books["gross_nano"] == books["own_nano"] + books["fees_nano"]
    assert [one["name"] for one in books["chutes"]] == ["tiny-chat"]
    assert books["rent_nano"] > 0
    assert "tiny-chat" in newcomer.command("earnings", "--csv").stdout

    left = newcomer.told("drain")
    assert left["stopped"] is True
    assert newcomer.command("top", "--once").returncode == NO_AGENT
    assert market.until(lambda: _serving(market) == 0, "its offer is withdrawn")


def test_maintenance_takes_it_out_and_brings_it_back(newcomer: Newcomer) -> None:
    market = newcomer.market
    options = ("--gateway", market.gateway, "--chutes", "tiny-chat", "--no-test")
    assert newcomer.command("up", *options, "--detach").returncode == 0, newcomer.log()
    planned = newcomer.told("maintenance", "--at", "now", "--for", "10s")
    assert planned["maintenance"]["is_on"] is True
    market.until(lambda: _serving(market) == 0, "it is away")
    market.until(lambda: _serving(market) == 1, "it is back by itself")


def test_in_the_foreground_ctrl_c_drains(newcomer: Newcomer) -> None:
    market = newcomer.market
    options = ("--gateway", market.gateway, "--chutes", "tiny-chat", "--no-test")
    running = subprocess.Popen(
        newcomer.argv("up", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        market.until(lambda: _serving(market) == 1, "it serves")
        market.until(lambda: "Your miner serves." in _said(running), "it says so")
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)  # an impatient finger changes nothing
        said, _ = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 0
    assert "Stopped." in said
    assert market.until(lambda: _serving(market) == 0, "its offer is withdrawn")


def test_where_no_gateway_answers_it_says_what_to_do(tmp_path: Path) -> None:
    nowhere = Newcomer(RunningMarket(tmp_path, 1), tmp_path / "m")
    done = nowhere.command("up", "--gateway", "http://127.0.0.1:9")
    assert done.returncode == 4
    assert "check --gateway URL" in done.stdout
    assert not (nowhere.home / "miner.json").exists()


def _answered(market: RunningMarket) -> str:
    reply = market.chat("What is the capital of Kenya?")
    if reply.status_code != 200:
        return ""
    return str(reply.json()["choices"][0]["message"]["content"])


def _earning(newcomer: Newcomer) -> Any:
    frame = newcomer.told("top")
    return frame if frame["earnings"]["day"]["orders"] else None


def _booked(newcomer: Newcomer) -> Any:
    books = newcomer.told("earnings", "--days", "1")
    return books if books["orders"] and not books["unsettled_epochs"] else None


def _serving(market: RunningMarket) -> int:
    chutes = market.status()["chutes"]
    return int(next(one["serving"] for one in chutes if one["name"] == "tiny-chat"))


def _said(running: "subprocess.Popen[str]") -> str:
    """What it has written so far, without waiting for more."""
    assert running.stdout is not None
    handle = running.stdout.fileno()
    os.set_blocking(handle, False)
    try:
        return os.read(handle, 65_536).decode()
    except BlockingIOError:
        return ""
