"""The validator as a process: it starts, judges, answers for its health, and ends when told to."""

import asyncio
import json
import os
import random
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.client.published_log import LOG_KEY, ORIGIN, PublishedLog

from penstock.kit.errors import WireError
from penstock.kit.keys import Ed25519Key
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.spec.canon import encode, to_plain
from penstock.spec.entries import EntryKind
from penstock.spec.keys import sign
from penstock.spec.messages import Charter, Seat
from penstock.spec.params import LOCAL, params_digest
from penstock.validator.app import main

DEADLINE_S = 60
SEED = bytes(range(100, 132))
KEY, OPERATOR = Ed25519Key(SEED), Ed25519Key(bytes(32))


@dataclass
class Peers:
    """Market and ledger of an idle market, on a real port."""

    log: PublishedLog = field(default_factory=PublishedLog)
    reports: list[dict[str, Any]] = field(default_factory=list)
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        charter = Charter(
            origin=ORIGIN,
            network=LOCAL.network,
            params_digest=params_digest(LOCAL),
            operator=OPERATOR.identity,
            ledger=LOG_KEY.identity,
            market=OPERATOR.identity,
            gateways=(),
            seats=(Seat(KEY.identity, 1),),
        )
        self.charter = to_plain(sign("charter", charter, OPERATOR))
        self.log.append(EntryKind.CHARTER, "charter/0", self.charter)
        about = msgspec.json.decode(self.log.files.read("operator.json"))
        self.log.files.write("operator.json", _canonical({**about, "operator": OPERATOR.identity}))

    def routes(self) -> Routes:
        table = Routes()
        table.add("GET", "/v1/info", self._info)
        table.add("GET", "/v1/chutes", self._chutes)
        table.add("GET", "/v1/epochs", self._epochs)
        table.add("GET", "/files/{name...}", self._file)
        table.add("POST", "/v1/reports", self._report)
        return table

    async def _info(self, request: Request) -> Response:
        return json_response(200, {"charter": self.charter, "now_ms": 1})

    async def _chutes(self, request: Request) -> Response:
        return json_response(200, {"chutes": []})

    async def _epochs(self, request: Request) -> Response:
        return json_response(200, {"closed": max(self.log.ends), "settled": -1})

    async def _file(self, request: Request) -> Response:
        try:
            return Response(200, self.log.files.read(request.params["name"]))
        except FileNotFoundError:
            return Response(404)

    async def _report(self, request: Request) -> Response:
        self.reports.append(msgspec.json.decode(request.body))
        self.reported.set()
        return json_response(200, {"accepted": True})


def _canonical(value: dict[str, str]) -> bytes:
    from penstock.spec.canon import canonical

    return canonical(value)


def write_config(folder: Path, url: str, **changes: Any) -> Path:
    """A configuration with its secrets in files of their own."""
    api_key, seed = folder / "api-key", folder / "seed.json"
    api_key.write_text("sk-penstock-x\n")
    seed.write_text(json.dumps({"scheme": "ed25519", "seed": SEED.hex()}))
    for file in (api_key, seed):
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    config = {
        "name": "validator-1",
        "gateway_url": url,
        "market_url": url,
        "ledger_url": url,
        "api_key_file": str(api_key),
        "key_file": str(seed),
        "home": str(folder / "home"),
        "operator": OPERATOR.identity,
        "port": free_port(),
        "log_json": True,
        **changes,
    }
    path = folder / "validator.json"
    path.write_text(json.dumps(config))
    return path


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "penstock.validator.app",
        "--config",
        str(path),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def until(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    """Ask again and again, until the answer is as it should be; the test's deadline ends it."""
    while True:
        found = await ask()
        if holds(found):
            return found
        await asyncio.sleep(0.05)


async def test_a_process_reports_an_epoch_tells_its_health_and_ends_when_told(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        peers = Peers()
        epoch = await peers.log.close()
        server = Server(Sockets(), peers.routes(), entropy=random.Random(1).randbytes)
        port = await server.start("127.0.0.1", 0)
        path = write_config(tmp_path, f"http://127.0.0.1:{port}")
        url = f"http://127.0.0.1:{json.loads(path.read_text())['port']}"
        client = HttpClient(Sockets())

        async def health() -> Any:
            try:
                reply = await client.call("GET", f"{url}/health", deadline_ms=5_000)
            except WireError:
                return None
            return msgspec.json.decode(reply.body)

        async with process(path) as validator:
            await peers.reported.wait()
            said = await until(health, lambda one: one and one["epochs"]["pending"] == 0)
            assert said["status"] == "ok", said
            assert said["epochs"]["reported"] == epoch
            assert said["validator"] == KEY.identity
            metrics = await client.call("GET", f"{url}/metrics", deadline_ms=5_000)
            assert b'validator_reports_total{state="accepted"} 1' in metrics.body
            validator.send_signal(signal.SIGTERM)
            assert await validator.wait() == 0
        body = peers.reports[0]["body"]
        assert (body["epoch"], body["validator"]) == (epoch, KEY.identity)
        await client.close()
        await server.close(drain_ms=1_000)


async def test_a_process_waits_for_its_market_and_still_ends_when_told(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        path = write_config(tmp_path, f"http://127.0.0.1:{free_port()}")
        async with process(path) as validator:
            assert validator.stderr is not None
            line = await validator.stderr.readline()
            assert json.loads(line)["event"] == "market.away"
            validator.send_signal(signal.SIGTERM)
            assert await validator.wait() == 0


async def test_a_process_of_another_operators_market_says_so_and_ends(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        peers = Peers()
        server = Server(Sockets(), peers.routes(), entropy=random.Random(1).randbytes)
        port = await server.start("127.0.0.1", 0)
        path = write_config(tmp_path, f"http://127.0.0.1:{port}", operator=KEY.identity)
        async with process(path) as validator:
            _, said = await validator.communicate()
            assert validator.returncode == 1
        assert b"is not its operator" in said
        await server.close(drain_ms=1_000)


async def test_a_process_whose_secret_others_can_read_does_not_start(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        peers = Peers()
        server = Server(Sockets(), peers.routes(), entropy=random.Random(1).randbytes)
        port = await server.start("127.0.0.1", 0)
        path = write_config(tmp_path, f"http://127.0.0.1:{port}")
        (tmp_path / "api-key").chmod(0o644)
        async with process(path) as validator:
            _, said = await validator.communicate()
            assert validator.returncode == 1
        assert b"api-key" in said
        assert b"sk-penstock" not in said
        await server.close(drain_ms=1_000)


def test_a_configuration_that_cannot_be_used_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "validator.json"
    path.write_bytes(encode(Seat("x", 1)))
    assert main(["--config", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
