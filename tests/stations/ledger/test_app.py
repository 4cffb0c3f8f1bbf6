"""The ledger as a process on real Postgres, NATS and files: it serves, stops cleanly, and resumes."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.servers import RunningServer, free_port, nats_in
from tests.stations.ledger.makers_ledger import KEY, KEY_HASH

from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.kit.errors import WireError
from penstock.kit.keys import Ed25519Key
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.ledger.app import build, main, read_charter
from penstock.ledger.app import database_url as url_of
from penstock.ledger.config import LedgerConfig, read_config
from penstock.spec.accounts import AccountOpening
from penstock.spec.canon import to_plain
from penstock.spec.errors import BadMessage
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Charter
from penstock.spec.params import LOCAL, params_digest

OWNER, GATEWAY = Ed25519Key(b"\3" * 32), Ed25519Key(b"\4" * 32)
DEADLINE_S = 60


def signed_charter(ledger: str) -> Signed:
    said = Charter(
        origin="app.example/log",
        network=LOCAL.network,
        params_digest=params_digest(LOCAL),
        operator=OWNER.identity,
        ledger=ledger,
        market=OWNER.identity,
        gateways=(GATEWAY.identity,),
        seats=(),
    )
    return sign("charter", said, OWNER)


def write_config(home: Path, **changes: Any) -> Path:
    """The files of a ledger in `home`; returns its configuration."""
    key = load_or_create_key(home / "ledger.json", lambda count: b"\5" * count)
    charter = {"charter": to_plain(signed_charter(key.identity)), "delegations": []}
    (home / "charter.json").write_text(json.dumps(charter))
    values = {
        "network": "local",
        "nats_url": "nats://127.0.0.1:1",
        "database_url": "postgresql://127.0.0.1:1/x",
        "key_file": str(home / "ledger.json"),
        "charter_file": str(home / "charter.json"),
        "public": str(home / "public"),
        "port": free_port(),
        **changes,
    }
    path = home / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A bus of the test's own: the ledger consumes all events of its bus."""
    running = RunningServer(nats_in(tmp_path / "nats"))
    await running.start()
    yield running
    await running.stop()


class Caller:
    """Asks a ledger on this machine."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.client = HttpClient(Sockets())

    async def get(self, path: str, **headers: str) -> Any:
        reply = await self.client.call(
            "GET", self.url + path, deadline_ms=20_000, headers=tuple(headers.items())
        )
        return json.loads(reply.body)

    async def post(self, path: str, body: object) -> Any:
        reply = await self.client.call(
            "POST", self.url + path, deadline_ms=20_000, body=json.dumps(body).encode()
        )
        return json.loads(reply.body)


@asynccontextmanager
async def running(config: Path, port: int) -> AsyncIterator[Caller]:
    """The process, from serving to a clean end by SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock.ledger.app", "--config", str(config)
    )
    caller = Caller(port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await caller.get("/v1/epochs")
                    break
                except WireError:
                    assert process.returncode is None, "the ledger ended before it served"
                    await asyncio.sleep(0.1)
        yield caller
    finally:
        await caller.client.close()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            status = await process.wait()
    assert status == 0


@pytest.mark.slow
async def test_a_ledger_serves_stops_and_goes_on_where_it_was(
    tmp_path: Path, database_url: str, own_nats: RunningServer
) -> None:
    port = free_port()
    config = write_config(tmp_path, port=port, nats_url=own_nats.url, database_url=database_url)
    opening = AccountOpening("ann", KEY_HASH, 5_000_000_000, "first")
    async with running(config, port) as caller:
        said = await caller.post("/v1/accounts", to_plain(sign("account", opening, OWNER)))
        assert said == {"account": "ann", "available_nano": 5_000_000_000}
        async with NatsBus(own_nats.url) as bus:
            question = {
                "gateway": GATEWAY.identity,
                "key_hash": KEY_HASH,
                "lease_id": "",
                "need_nano": 1,
            }
            raw = json.dumps(question).encode()
            lease = json.loads(await bus.ask("ledger.lease", raw, deadline_ms=20_000))
            assert lease["granted_nano"] == LOCAL.lease_amount_nano
    async with NatsBus(own_nats.url) as bus:
        closing = {"lease_id": lease["lease_id"], "close": True}
        raw = json.dumps(closing).encode()
        await bus.publish("events.lease.gw", raw, event_id="closing")
    async with running(config, port) as caller, asyncio.timeout(DEADLINE_S):
        while True:
            balance = await caller.get("/v1/balance", authorization=f"Bearer {KEY}")
            if balance["held_nano"] == 0:
                break
            await asyncio.sleep(0.1)
        assert balance["available_nano"] == 5_000_000_000
        assert (await caller.get("/v1/epochs"))["log_size"] >= 1
        assert (await caller.get("/health"))["status"] == "ok"
    assert (tmp_path / "public" / "operator.json").exists()


class TestConfig:
    def test_json_and_toml_say_the_same(self, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        values = json.loads(path.read_bytes())
        toml = tmp_path / "config.toml"
        toml.write_text("\n".join(f"{name} = {json.dumps(one)}" for name, one in values.items()))
        assert read_config(toml) == read_config(path)

    @pytest.mark.parametrize(
        "changes",
        [
            {"network": "moon"},
            {"more": 1},
            {"database_url": ""},
            {"database_url_file": "x"},
            {"port": "80"},
        ],
    )
    def test_what_cannot_be_used_is_said_with_its_place(
        self,
        tmp_path: Path,
        changes: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = write_config(tmp_path, **changes)
        assert main(["--config", str(path)]) == 2
        assert str(path) in capsys.readouterr().err

    def test_a_url_with_a_password_may_stand_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "url").write_text("postgresql://secret@h/x\n")
        path = write_config(tmp_path, database_url="", database_url_file=str(tmp_path / "url"))
        assert url_of(read_config(path)) == "postgresql://secret@h/x"

    def test_a_charter_file_without_a_charter_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "charter.json"
        for text in ("{}", "[]", '{"charter": {}}'):
            path.write_text(text)
            with pytest.raises(ValueError, match="no signed charter"):
                read_charter(path)

    def test_a_charter_of_another_ledger_is_refused(self, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        other = {"charter": to_plain(signed_charter(GATEWAY.identity))}
        (tmp_path / "charter.json").write_text(json.dumps(other))
        config: LedgerConfig = read_config(path)
        with pytest.raises(BadMessage, match="another ledger key"):
            build(config)
