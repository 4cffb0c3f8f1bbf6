"""Kill -9 in the middle of streams and of intake, a full disk, wrong clocks: what must still hold.

After each fault: no request unaccounted for, nobody charged twice, books balanced, log consistent,
and service within 10 s where another instance can serve.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.drill import Drill, engine_of
from tests.e2e.market import RunningMarket, running_market

LEASE_IDLE_MS = 500


def overrides(home: Path, station: str, values: dict[str, object]) -> None:
    """Put values into a station's configuration that `up` would not choose."""
    folder = home / "overrides"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{station}.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """A market that is broken again and again. Its leases go back soon, so that it comes to rest."""
    home = tmp_path_factory.mktemp("drill") / "home"
    overrides(home, "gateway", {"bounds": {"lease_idle_ms": LEASE_IDLE_MS}})
    with running_market(home, "--validators", "0") as market:
        yield Drill(market)


@pytest.mark.parametrize(
    "station", ["gateway", "ledger", "postgres", "nats", "market", "miner-1"]
)
def test_a_killed_station_costs_nobody_anything_and_comes_back(
    drill: Drill, station: str
) -> None:
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
    miner = market.pid("miner-1")
    old = engine_of(miner)
    assert old
    drill.run(
        "engine of miner-1",
        lambda: os.kill(old, signal.SIGKILL),
        wait_back=lambda: engine_of(miner) not in {0, old} and serving(market) >= 2,
    )
    assert market.pid("miner-1") == miner, "only the engine was started again"


def serving(market: RunningMarket) -> int:
    """How many instances of the chat chute the market knows."""
    return next(one["serving"] for one in market.status()["chutes"] if one["name"] == "tiny-chat")
