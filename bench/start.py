"""From nothing to the first token: `penstock up` in a fresh home, again in the same, and the bare engine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import ROOT, Figure
from bench.ground import Ground, free_port, question

from bench import load
from penstock.adapters.engines.llamacpp_worker import WorkerSettings
from penstock.adapters.engines.model_files import found, gguf_path

MODEL, SOURCE = "tiny-chat", "builtin:tiny-chat"
STOP_DEADLINE_S = 20


def measure(*, quick: bool) -> list[Figure]:
    """Two starts of a market (one when quick) and one of its engine alone."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        ground = Ground(Path(folder) / "home", free_port())
        for target in ("market, fresh home", "market, same home")[: 1 if quick else 2]:
            figures += started(ground, target, miners=1 if quick else 3)
    return figures + bare()


def started(ground: Ground, target: str, *, miners: int) -> list[Figure]:
    """One start of a market, one first token, one stop."""
    began = time.perf_counter()
    ground.up(miners=miners)
    ready_s = time.perf_counter() - began
    try:
        seen = first_token(ground.url, ground.api_key)
    finally:
        leaving = time.perf_counter()
        ground.down()
    return [
        Figure(target, "ready", "s", ready_s),
        Figure(target, "first token", "s", ready_s + seen.first_p50_ms / 1000),
        Figure(target, "request to first token", "ms", seen.first_p50_ms),
        Figure(target, "down", "s", time.perf_counter() - leaving),
    ]


def bare() -> list[Figure]:
    """The llama.cpp worker started by itself, as the miner would start it."""
    settings = WorkerSettings(
        path=str(found(gguf_path(SOURCE))),
        model=MODEL,
        slots_max=4,
        context_tokens_max=1024,
        threads=1,
        embeddings=False,
    )
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.adapters.engines.llamacpp_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        line = {name: getattr(settings, name) for name in settings.__struct_fields__}
        worker.stdin.write(json.dumps(line).encode() + b"\n")
        worker.stdin.flush()
        address = json.loads(worker.stdout.readline())["address"]
        ready_s = time.perf_counter() - began
        seen = first_token(address, "")
        worker.stdin.close()
        worker.terminate()
        worker.wait(STOP_DEADLINE_S)
    return [
        Figure("bare engine", "ready", "s", ready_s),
        Figure("bare engine", "first token", "s", ready_s + seen.first_p50_ms / 1000),
        Figure("bare engine", "request to first token", "ms", seen.first_p50_ms),
    ]


def first_token(url: str, api_key: str) -> load.Seen:
    """One streamed answer of the chat model. Raises RuntimeError."""
    body = json.dumps(question(MODEL, words=8, stream=True))
    wish = load.Wish(f"{url}/v1/chat/completions", api_key, body, connections=1, seconds=0)
    seen = load.run(wish)
    if seen.errors:
        raise RuntimeError(f"no first token: {seen.first_error}")
    return seen
