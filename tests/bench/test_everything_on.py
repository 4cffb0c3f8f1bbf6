"""The bench of our own gateway, run as `make bench-gateway` runs it, only short: all on, no faults."""

import json
import subprocess
import sys
from pathlib import Path

from bench.gateway.results import CHUNK, DELAY, KEEPUP, MEMORY, REQUEST

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 240


def test_our_gateway_is_measured_with_everything_on(tmp_path: Path) -> None:
    """Real gateway, real NATS, the C upstream as miner: some twenty seconds of real load."""
    words = ["--targets", "direct", "penstock", "--repeats", "1", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway", *words, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = json.loads((tmp_path / "gateway.json").read_text())
    told = {(one["target"], one["metric"]): one["value"] for one in rows}
    assert told["penstock", REQUEST] > 0
    assert told["penstock", CHUNK] > 0
    assert {("penstock", one) for one in (KEEPUP, DELAY, MEMORY)} <= set(told)
    assert (told["penstock", "errors"], told["penstock", "lost_chunks"]) == (0, 0)
    run = json.loads((tmp_path / "gateway.run.json").read_text())
    books, miner = run["checks"]["books"], run["checks"]["miner"]
    assert run["checks"]["faults"] == []
    assert books["records"] > 0
    assert books["judged"] == books["decided"] > books["bad"] == 0
    assert books["sealed"] > 0
    assert miner["vouched"] > miner["signed"]
    assert miner["unsealed"] == 0
