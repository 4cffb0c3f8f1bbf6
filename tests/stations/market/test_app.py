"""The market as a process, on a real Postgres and a real NATS."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.makers import MANIFEST

from penstock.adapters.keyfile import load_or_create_key
from penstock.kit.keys import Ed25519Key
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.market.app import build, main
from penstock.market.config import read_config
from penstock.market.errors import WrongCharter
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Charter, chute_id
from penstock.spec.params import LOCAL, params_digest

DEADLINE_S = 60
OPERATOR = Ed25519Key(b"o" * 32)


def write_config(folder: Path, *, charter: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A configuration with a charter that names the key of this folder."""
    key = load_or_create_key(folder / "market.key", os.urandom)
    said = Charter(
        origin="example/log",
        network="local",
        params_digest=params_digest(LOCAL),
        operator=OPERATOR.identity,
        ledger=OPERATOR.identity,
        market=key.identity,
        gateways=(),
        seats=(),
    )
    signed = sign("charter", replace(said, **(charter or {})), OPERATOR)
    (folder / "charter.json").write_text(json.dumps({"charter": to_plain(signed)}))
    config = {
        "network": "local",
        "nats_url": "nats://127.0.0.1:1",
        "database_url": "postgresql://127.0.0.1:1/none",
        "key_file": str(folder / "market.key"),
        "charter_file": str(folder / "charter.json"),
        "ledger_url": "http://127.0.0.1:1",
        "gateway_urls": ["http://127.0.0.1:2"],
        "port": 0,
        **changes,
    }
    path = folder / "market.json"
    path.write_text(json.dumps(config))
    return path


async def port_of(process: asyncio.subprocess.Process) -> int:
    """The port from the event that the market logs when it is ready."""
    assert process.stderr is not None
    async for line in process.stderr:
        said = json.loads(line)
        if said["event"] == "market.ready":
            port: int = said["port"]
            return port
    raise AssertionError("the market ended before it was ready")


@pytest.mark.slow
async def test_it_starts_serves_and_stops_on_sigterm(
    tmp_path: Path, database_url: str, nats_url: str
) -> None:
    path = write_config(tmp_path, database_url=database_url, nats_url=nats_url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.market.app", "--config", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    client = HttpClient(Sockets())
    try:
        async with asyncio.timeout(DEADLINE_S):
            url = f"http://127.0.0.1:{await port_of(process)}"
            manifest = replace(MANIFEST, owner=OPERATOR.identity)
            body = json.dumps(to_plain(sign("manifest", manifest, OPERATOR))).encode()
            reply = await client.call("POST", f"{url}/v1/chutes", body=body, deadline_ms=30_000)
            assert json.loads(reply.body) == {"chute": chute_id(manifest), "created": True}
            reply = await client.call("GET", f"{url}/v1/info", deadline_ms=30_000)
            assert json.loads(reply.body)["charter"]["signer"] == OPERATOR.identity
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("charter", "reason"),
    [
        ({"market": OPERATOR.identity}, "this key is"),
        ({"params_digest": "00"}, "other numbers"),
        ({"network": "mainnet"}, "other numbers"),
        ({"operator": "ed25519:" + "0" * 64}, "not signed by the operator"),
    ],
)
def test_a_charter_that_is_not_its_own_is_refused(
    tmp_path: Path, charter: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WrongCharter, match=reason):
        build(read_config(write_config(tmp_path, charter=charter)))


def test_a_forged_charter_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    charter = json.loads((tmp_path / "charter.json").read_text())
    charter["charter"]["body"]["origin"] = "elsewhere/log"
    (tmp_path / "charter.json").write_text(json.dumps(charter))
    with pytest.raises(WrongCharter, match="does not hold"):
        build(read_config(path))


def test_the_database_url_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://secret@127.0.0.1/x\n")
    path = write_config(tmp_path, database_url="", database_url_file=str(tmp_path / "url"))
    assert build(read_config(path)).market.key.identity.startswith("ed25519:")


def test_a_configuration_may_be_toml(tmp_path: Path) -> None:
    fields = json.loads(write_config(tmp_path).read_text())
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    (tmp_path / "market.toml").write_text(text)
    assert read_config(tmp_path / "market.toml") == read_config(tmp_path / "market.json")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"colour": "red"}, 2, "colour"),
        ({"database_url_file": "both"}, 2, "either"),
        ({"network": "nowhere"}, 1, "nowhere"),
        ({"charter_file": "/nonexistent/charter"}, 1, "nonexistent"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    status: int,
    said: str,
) -> None:
    path = write_config(tmp_path, **changes)
    assert main(["--config", str(path)]) == status
    assert said in capsys.readouterr().err
