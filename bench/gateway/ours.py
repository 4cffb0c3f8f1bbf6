"""Our gateway as it runs in production, with everything on, and the market it needs around it.

The gateway under test is `python -m penstock.gateway.app` with its own configuration file: key check,
limits, leases, routing records, session MACs, digests, receipts, seals, and records to a real NATS
server that stores each message on disk before it answers. Only the limits of one caller are out of the
way, as one caller asks for everything here. NATS, ledger and miner run on the other core.
"""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.gateway import cast
from bench.gateway.processes import Program, running, wait_open, wait_until
from bench.gateway.targets import HOST, Ground, Target
from bench.ground import free_port

from penstock import __version__ as version
from penstock.adapters.embedded_nats import NatsServer

START_DEADLINE_S = 60
PAGE_DEADLINE_S = 10
WORK = {"work_per_s": 10**12, "work_max": 10**14}
LIMITS = {
    "key_limits": {"parallel_max": 10_000, "requests_per_s": 10**6, "burst_max": 10**6, **WORK},
    "payer_limits": {"parallel_max": 10_000, **WORK},
    "address_limits": WORK,
}
"""One key, account and address ask for everything here: limits are checked, and let all pass."""


@contextmanager
def penstock(ground: Ground) -> Iterator[Target]:
    """The gateway, when it has answered a request."""
    home = ground.home("penstock")
    with bus(home, ground) as nats_url, market(home, ground, nats_url) as market_port:
        port = free_port()
        config = write_config(home, port=port, market_port=market_port, nats_url=nats_url)
        log = home / "gateway.log"
        argv = (sys.executable, "-m", "penstock.gateway.app", "--config", str(config))
        with running(Program(argv, log, ground.cores.gateway, env={})) as child:
            wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
            wait_until(lambda: answers(port), child, log=log, deadline_s=START_DEADLINE_S)
            yield Target("penstock", version, port, (child.pid,), api_key=cast.API_KEY)


@contextmanager
def bus(home: Path, ground: Ground) -> Iterator[str]:
    """A NATS server as `penstock up` starts it; its URL."""
    server = NatsServer(home=home, port=free_port())
    asyncio.run(server.prepare())
    command = server.command
    log = home / "nats.log"
    program = Program(command.argv, log, ground.cores.ends, env=command.env, cwd=command.cwd)
    with running(program) as child:
        wait_open(child, server.port, log=log, deadline_s=START_DEADLINE_S)
        yield server.url


@contextmanager
def market(home: Path, ground: Ground, nats_url: str) -> Iterator[int]:
    """Charter, offers and ledger; the port."""
    port, log = free_port(), home / "market.log"
    settings = home / "market.json"
    said = {"nats_url": nats_url, "port": port, "endpoint": ground.upstream}
    settings.write_text(json.dumps(said))
    argv = (sys.executable, "-m", "bench.gateway.market", str(settings))
    with running(Program(argv, log, ground.cores.ends, env={})) as child:
        wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
        (home / "market.port").write_text(str(port))
        yield port


def write_config(home: Path, *, port: int, market_port: int, nats_url: str) -> Path:
    """The gateway's configuration: production's defaults but for the limits of a key."""
    key_file, secret_file = home / "gateway.key", home / "tag.secret"
    for file, text in (
        (key_file, json.dumps({"scheme": "ed25519", "seed": cast.GATEWAY_SEED.hex()})),
        (secret_file, "ab" * 32),
    ):
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
    config = {
        "name": "bench",
        "market_url": f"http://{HOST}:{market_port}",
        "nats_url": nats_url,
        "key_file": str(key_file),
        "tag_secret_file": str(secret_file),
        "operator": cast.OPERATOR.identity,
        "host": HOST,
        "port": port,
        **LIMITS,
    }
    path = home / "gateway.json"
    path.write_text(json.dumps(config, indent=1))
    return path


def answers(port: int) -> bool:
    """Does the gateway serve the bench's chute?"""
    body = {"model": cast.MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    asked = urllib.request.Request(
        f"http://{HOST}:{port}{cast.CHAT_PATH}",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {cast.API_KEY}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=PAGE_DEADLINE_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def books(ground: Ground) -> dict[str, Any]:
    """What the ledger of the bench has got and judged."""
    port = (ground.home("penstock") / "market.port").read_text()
    return page(int(port), "/bench/books")


def page(port: int, path: str) -> dict[str, Any]:
    """A JSON page of one of the bench's own processes."""
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=PAGE_DEADLINE_S) as reply:
        told: dict[str, Any] = json.loads(reply.read())
    return told
