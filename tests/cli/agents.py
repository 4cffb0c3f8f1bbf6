"""A stand-in for a miner's agent on its socket, and frames as agents make them."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cli.stations import START_DEADLINE_S, Stations

from penstock.cli.miner_home import MinerHome
from penstock.kit.wire.local_sockets import LocalSockets
from penstock.kit.wire.server import Server

MINER = "ed25519:" + "1f" * 32
SUM = {
    "orders": 12,
    "gross_nano": 1_234_567,
    "fees_nano": 370_371,
    "own_nano": 864_196,
    "payout_nano": 42_000,
    "power_nano": 90_000,
    "rent_nano": 0,
    "net_nano": 816_196,
}
INSTANCE: dict[str, Any] = {
    "instance": "miner-1-1f1f1f1f",
    "chute": "sha256:" + "ab" * 32,
    "name": "tiny-chat",
    "state": "serving",
    "running": 2,
    "room": 2,
    "auto": False,
    "why": "",
    "offered": True,
    "hardware": "cpu",
    "slots": ["cpu"],
    "memory_bytes": 1 << 28,
    "engine": {"running": 2, "waiting": 3, "ready": True},
    "waiting": 3,
    "parallel_max": 4,
    "modality": "chat",
}
CARD = {
    "uuid": "GPU-1",
    "model": "NVIDIA H100 80GB HBM3",
    "memory_bytes": 80 << 30,
    "memory_used_bytes": 61 << 30,
    "busy_ppm": 730_000,
    "power_mw": 412_000,
    "power_max_mw": 700_000,
    "temperature_mc": 64_000,
}


def frame_of(**changes: Any) -> dict[str, Any]:
    """A frame with everything in it."""
    return {
        "now_ms": 1_800_000_000_000,
        "pid": 4711,
        "name": "miner",
        "miner": MINER,
        "owner": MINER,
        "market_url": "http://market:1",
        "endpoint": "http://127.0.0.1:42041",
        "status": "ok",
        "problems": [],
        "gpus": [],
        "host": {
            "model": "AMD EPYC 9654 96-Core Processor",
            "class": "cpu",
            "cores": 2,
            "memory_bytes": 24 << 30,
            "memory_used_bytes": 5 << 30,
            "busy_ppm": 310_000,
        },
        "instances": [INSTANCE],
        "rates": {
            "completion_tokens_per_s_milli": 17_500,
            "prompt_tokens_per_s_milli": 22_100,
            "requests_per_min": 48,
            "cached_ppm": 310_000,
        },
        "earnings": {
            "now_nano_per_hour": 401_000,
            "day": SUM,
            "week": {**SUM, "net_nano": -5_000_000},
            "settled_epoch": 9,
        },
        "costs": {
            "power_usd_per_kwh_nano": 300_000_000,
            "rent_usd_per_hour_nano": 0,
            "power_mw": None,
            "power_is_measured": False,
        },
        "maintenance": None,
        "outbox": {"claims": 0, "dropped": 0, "unsealed": 0},
        "tunnels": [],
        **changes,
    }


@contextmanager
def agent_at(home: MinerHome, stations: Stations) -> Iterator[Stations]:
    """These answers at HOME/agent.sock, in a thread with a loop of its own."""
    home.make()
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = Server(LocalSockets(home.socket_file), stations, entropy=os.urandom)
        await server.start("agent", 0)
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.close(drain_ms=1_000)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(START_DEADLINE_S)
        yield stations
    finally:
        stop.set()
        thread.join()
