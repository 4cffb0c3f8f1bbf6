"""A whole market in memory: every rule holds, and a seed is one story."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sim.playing import new_world, played

from penstock.sim.world import play

SEEDS = [
    line.split()
    for line in (Path(__file__).parent / "seeds.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
PLAY = """
import sys
from penstock.cli.sim import play
print(play(int(sys.argv[1]), float(sys.argv[2])))
"""


def play_apart(seed: int, *, hash_seed: str) -> dict[str, object]:
    """One world in an interpreter of its own, with its own order of hashes."""
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(seed), "0.01"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
        timeout=240,
    )
    found: dict[str, object] = json.loads(done.stdout)["result"]
    return found


def test_the_same_seed_is_the_same_story_under_any_hash_seed() -> None:
    one, other = play_apart(5, hash_seed="1"), play_apart(5, hash_seed="2")
    assert one == other
    assert one["broken"] == []


def test_another_seed_is_another_story() -> None:
    assert played(5, length_ms=10_000).trace != played(6, length_ms=10_000).trace


def test_a_world_serves_fails_and_settles() -> None:
    """Three minutes with every kind of trouble: what the simulation is for does happen in it."""
    result = played(2, length_ms=180_000)
    assert result.broken == ()
    assert result.outcomes["complete"] > 300
    assert result.outcomes["miner_failed"] > 0
    assert result.outcomes["client_cancelled"] > 0
    assert result.epochs_settled >= 3
    assert result.epochs_audited >= 1
    assert result.counts["reports"] >= 3
    assert result.counts["lies caught by clients"] > 0
    assert result.faults > 3
    assert result.checks > 10


def test_scores_pay_out_the_pool() -> None:
    world = new_world(2, length_ms=90_000)
    play(world)
    earned = {
        name: balance.posted_nano
        for name, balance in world.ground.ledger_store.books.accounts.items()
        if name.startswith("miner/")
    }
    assert world.result().broken == ()
    assert sum(amount > 0 for amount in earned.values()) >= 2
    assert any(
        operation.id.startswith("settlement/") and len(getattr(operation, "legs", ())) > 2
        for operation in world.ground.ledger_store.operations
    )


def test_every_station_of_a_world_stops_when_it_is_asked_to() -> None:
    world = new_world(7, length_ms=8_000)
    play(world)
    assert world.result().broken == ()
    assert not any(host.is_up for host in world.hosts.values())
    assert world.operator.gateways == {}


@pytest.mark.parametrize(("seed", "hours"), SEEDS)
def test_seeds_that_once_broke_a_rule_keep_it_now(seed: str, hours: str) -> None:
    assert played(int(seed), length_ms=round(float(hours) * 3_600_000)).broken == ()
