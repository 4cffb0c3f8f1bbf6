"""Odd starts: two `up` at once make one market, its miners' clocks are wrong, and it is killed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.drill import overrides
from tests.e2e.market import RunningMarket

from penstock.cli.home import free_port

SMALL = ("--miners", "2", "--validators", "0")
Raced = tuple[RunningMarket, list[subprocess.CompletedProcess[str]]]


"""A second market: two `up` at once make it, its miners' clocks are wrong, and it is killed."""


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raced]:
    home = tmp_path_factory.mktemp("small") / "home"
    overrides(home, "miner-1", {"clock_skew_ms": 3_600_000})
    overrides(home, "miner-2", {"clock_skew_ms": -3_600_000})
    market = RunningMarket(home, free_port(set()))
    try:
        yield market, market.up_at_once(2, *SMALL)
    finally:
        market.command("down")


def test_two_ups_at_once_make_one_market_and_both_say_so(raced: Raced) -> None:
    market, ups = raced
    assert [one.returncode for one in ups] == [0, 0], [one.stderr for one in ups]
    made = [one for one in ups if "Penstock is up." in one.stdout]
    others = [one for one in ups if "already runs" in one.stdout]
    assert (len(made), len(others)) == (1, 1), [one.stdout for one in ups]
    assert market.until(lambda: market.status()["ready"], "the market is ready")
    assert not list(market.home.glob("progress*"))


def test_miners_whose_clocks_are_an_hour_off_serve_and_warn(raced: Raced) -> None:
    market, _ = raced
    wanted, met = set(market.identities("miner-1", "miner-2")), set[str]()

    def both_served() -> bool:
        reply = market.chat("Hello!")
        assert reply.status_code == 200, reply.text
        met.add(reply.headers["x-penstock-miner"])
        return met >= wanted

    market.until(both_served, "both miners have served")
    for name, skew in (("miner-1", "skew_ms=3"), ("miner-2", "skew_ms=-3")):
        log = (market.home / "logs" / f"{name}.log").read_text()
        assert "clock.off" in log
        assert skew in log
    last = market.chat("Hello!").headers["x-penstock-order"]
    receipt = market.logged(last)["record"]["receipt"]["body"]
    assert abs(receipt["accept_ms"] - market.market_ms()) < 60_000, "the market's time is told"


def test_everything_dies_with_a_killed_supervisor_and_up_goes_on(raced: Raced) -> None:
    """Slow: a second start."""
    market, _ = raced
    logged = market.chat("Hello!").headers["x-penstock-order"]
    document = market.logged(logged)
    pids = [one["pid"] for one in market.status()["stations"]]
    os.kill(market.supervisor_pid, signal.SIGKILL)
    market.until(
        lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()],
        "every process of the market has ended",
    )
    assert market.status()["ready"] is False
    again = market.command(
        "up",
        "--detach",
        "--port",
        str(market.port),
        "--miners",
        "2",
        "--validators",
        "0",
        deadline_s=240,
    )
    assert again.returncode == 0, again.stderr
    assert market.logged(logged)["record"] == document["record"]
    assert market.chat("Hello!").status_code == 200
