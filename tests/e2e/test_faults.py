"""Kill -9 in the middle of streams and of intake, a full disk, wrong clocks: what must still hold.

After each fault: no request unaccounted for, nobody charged twice, books balanced, log consistent,
and service within 10 s where another instance can serve.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.drill import Drill, engine_of, fill, overrides
from tests.e2e.market import running_market

PUBLIC_BYTES_MAX = 4 << 20
# So soon are unused leases given back that a market comes to rest between two faults.
LEASE_IDLE_MS = 500


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """A market that is broken again and again, its published files on a small disk of their own."""
    home = tmp_path_factory.mktemp("drill") / "home"
    overrides(home, "gateway", {"bounds": {"lease_idle_ms": LEASE_IDLE_MS}})
    public = home / "public"
    public.mkdir()
    is_mounted = _mount(public)
    try:
        with running_market(home) as market:
            yield Drill(market, has_small_disk=is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(public)], check=True)


def _mount(folder: Path) -> bool:
    """A small file system in memory; False where this user may not mount one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    size = f"size={PUBLIC_BYTES_MAX}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=False, capture_output=True
    )
    return done.returncode == 0


@pytest.mark.parametrize(
    "station",
    ["validator-1", "gateway", "ledger", "postgres", "nats", "market", "miner-1"],
)
def test_a_killed_station_costs_nobody_anything_and_comes_back(drill: Drill, station: str) -> None:
    """Slow: real processes, and a claim's grace of 8 s after the gateway's end."""
    market = drill.market
    old = market.pid(station)
    drill.run(
        station,
        lambda: os.kill(old, signal.SIGKILL),
        wait_back=lambda: market.is_back(station, old),
    )


def test_a_killed_engine_is_started_again_by_its_miner(drill: Drill) -> None:
    """Slow: real processes."""
    market = drill.market
    miner, home = market.pid("miner-1"), market.home / "miners" / "miner-1"
    old = engine_of(home)
    assert old
    drill.run(
        "engine",
        lambda: os.kill(old, signal.SIGKILL),
        wait_back=lambda: engine_of(home) not in {0, old} and drill.serving() >= 2,
    )
    assert market.pid("miner-1") == miner, "only the engine was started again"


def test_the_epochs_of_the_faults_settle_and_verify_as_identical(drill: Drill) -> None:
    """Slow: the epoch of the first fault must have ended. A validator was killed in it."""
    market = drill.market
    if not drill.epochs:
        pytest.skip("no fault was made; run the whole file")
    first = min(drill.epochs)
    market.wait_settled(first)
    settled = market.ledger("/v1/epochs")["settled"]
    for epoch in sorted(one for one in drill.epochs if one <= settled):
        done = market.command("verify", "--epoch", str(epoch))
        assert done.returncode == 0, f"epoch {epoch}: {done.stderr}"
        assert "identical" in done.stdout


def test_a_full_disk_stops_publishing_and_nothing_else(drill: Drill) -> None:
    """Slow: an epoch must end while the disk is full, and settle when it no longer is."""
    if not drill.has_small_disk:
        pytest.skip("only root may mount the small file system that this test fills")
    market = drill.market
    ballast = market.home / "public" / "ballast"
    fill(ballast)
    try:
        drill.sign()
        epoch = market.ledger("/v1/epochs")["epoch"]
        market.until(
            lambda: (market.ledger("/health") or {}).get("status") == "degraded",
            "the ledger says that it is degraded",
            deadline_s=120,
        )
        status = market.status()
        assert status["ready"] is True, "everything else goes on"
        assert "disk" in status["problem"]
        assert "disk.full" in (market.home / "logs" / "ledger.log").read_text()
        drill.sign()
        assert market.told("balance")["available_nano"] > 0
    finally:
        ballast.unlink()
    market.until(lambda: market.ledger("/health")["status"] == "ok", "publishing goes on by itself")
    assert market.status()["problem"] == ""
    market.wait_settled(epoch)
    done = market.command("verify", "--epoch", str(epoch))
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stdout
    drill.check(drill.at_rest([drill.sign()]))
