"""The market that `penstock up` starts takes in a miner that nobody can dial."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
from tests.e2e.market import RunningMarket

from penstock.cli.home import free_port, read_json

ASK_DEADLINE_S = 5
END_DEADLINE_S = 90


@contextmanager
def hidden_miner(market: RunningMarket, home: Path) -> Iterator[str]:
    """A miner whose offers name no address; the URL of its own /health."""
    port = free_port(set())
    home.mkdir(mode=0o700)
    config = {
        "name": "hidden",
        "network": "local",
        "market_url": market.url("market"),
        "home": str(home),
        "key_file": str(home / "key.json"),
        "chutes": ["tiny-chat"],
        "port": port,
        "tunnel": {"mode": "only"},
    }
    file = home / "miner.json"
    file.write_bytes(msgspec.json.encode(config))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock.miner.app", "--config", str(file)],
            stdout=log,
            stderr=log,
            env=dict(os.environ),
        )
    try:
        yield f"http://127.0.0.1:{port}/health"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_DEADLINE_S) == 0, (home / "log").read_text()[-2000:]


def health(url: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = httpx.get(url, timeout=ASK_DEADLINE_S).json()
    except httpx.TransportError:
        return {}
    return found


def test_a_miner_without_an_address_joins_over_the_gateways_tunnel_port(
    market: RunningMarket, tmp_path: Path
) -> None:
    first = read_json(market.home / "ports.json")["tunnel"]
    told = httpx.get(f"http://127.0.0.1:{market.port}/tunnels", timeout=ASK_DEADLINE_S).json()
    assert [one["port"] for one in told["addresses"]] == [first, first + 1]
    with hidden_miner(market, tmp_path / "hidden") as url:

        def joined() -> dict[str, Any] | None:
            found = health(url)
            open_ones = [one for one in found.get("tunnels", []) if one["links"]]
            return found if open_ones and found["status"] == "ok" else None

        found = market.until(joined, "the miner has reverse connections and serves")
        assert found["problems"] == []
        assert [one["address"] for one in found["tunnels"] if one["links"]] == [
            f"127.0.0.1:{first}"
        ]
