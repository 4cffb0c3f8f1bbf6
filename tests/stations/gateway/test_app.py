"""The gateway as a process on real sockets and a real NATS, called by the stock OpenAI client."""

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.makers import MANIFEST
from tests.servers import RunningServer, free_port, nats_in, serving
from tests.stations.gateway.script import Script
from tests.stations.gateway.scripted_ledger import ScriptedLedger
from tests.stations.gateway.scripted_miner import ScriptedMiner
from tests.stations.gateway.world import ALIAS, SECRET, as_json

from penstock.adapters.child_process import ChildProcess, Command
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.nats import NatsBus
from penstock.gateway.app import main
from penstock.kit.clock import SystemClock
from penstock.kit.errors import WireError
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Charter, chute_id
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.receipts import Outcome

HOST = "127.0.0.1"
DEADLINE_S = 60
ROOM = 64
SAID = "Water turns the wheel."
OPERATOR, OWNER, MINER = (Ed25519Key(bytes([number]) * 32) for number in (1, 2, 3))


@dataclass
class Market:
    """A market that only says who runs it."""

    gateway: str
    network: str = "local"
    others: tuple[str, ...] = ()

    async def info(self, _: Request) -> Response:
        charter = Charter(
            origin="o",
            network=self.network,
            params_digest=params_digest(LOCAL),
            operator=OPERATOR.identity,
            ledger="l",
            market="m",
            gateways=(self.gateway, *self.others),
            seats=(),
        )
        return json_response(
            200,
            {
                "charter": to_plain(sign("charter", charter, OPERATOR)),
                "delegations": [],
                "now_ms": SystemClock().now_ms(),
                "ledger_url": "http://127.0.0.1:1",
                "gateway_urls": [],
            },
        )


@dataclass
class Stage:
    """A running gateway and those around it."""

    url: str
    child: ChildProcess
    ledger: ScriptedLedger
    miner: ScriptedMiner
    ca: str = ""
    """The certificate to trust, where the gateway serves HTTPS by one of its own."""

    async def ask(self, *, secret: str = SECRET, **fields: Any) -> str:
        """What the stock client hears to one chat."""
        messages = [{"role": "user", "content": "What does water do?"}]
        body = {"model": ALIAS, "messages": messages, "max_tokens": 16, **fields}
        async with self.client(secret) as client:
            answer: Any = await client.chat.completions.create(**body)
            if not fields.get("stream"):
                return str(answer.choices[0].message.content)
            return "".join([chunk.choices[0].delta.content async for chunk in answer])

    def client(self, secret: str = SECRET) -> openai.AsyncOpenAI:
        verify = ssl.create_default_context(cafile=self.ca or None)
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=secret,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=verify),
        )


@pytest.fixture
def nats(tmp_path: Path) -> Any:
    with serving(nats_in(tmp_path)) as server:
        yield server


def write_config(folder: Path, **fields: Any) -> Path:
    path = folder / "gateway.json"
    config = {
        "name": "gw",
        "key_file": str(folder / "gateway.key"),
        "tag_secret_file": str(folder / "tag-secret"),
        "operator": OPERATOR.identity,
        "log_json": False,
        **fields,
    }
    path.write_text(json.dumps(config))
    return path


async def reached(url: str, ca: str = "") -> bool:
    """Does it serve, and does it know a miner?"""
    client = HttpClient(Sockets(tls_context=ssl.create_default_context(cafile=ca) if ca else None))
    try:
        reply = await client.call("GET", f"{url}/health", deadline_ms=1_000)
    except WireError:
        return False
    finally:
        await client.close()
    return bool(json.loads(reply.body)["instances"])


@asynccontextmanager
async def stage(nats: RunningServer, folder: Path, **fields: Any) -> AsyncIterator[Stage]:
    """Everything started; the gateway is ready when it knows the miner."""
    identity = load_or_create_key(folder / "gateway.key", os.urandom).identity
    others = tuple(
        load_or_create_key(folder / f"gateway-{number}.key", os.urandom).identity
        for number in range(2, fields.get("workers", 0) + 2)
    )
    routes, port, clock = Routes(), free_port(), SystemClock()
    routes.add("GET", "/v1/info", Market(identity, others=others).info)
    market = Server(Sockets(), routes, entropy=os.urandom)
    market_port = await market.start(HOST, 0)
    config = write_config(
        folder, market_url=f"http://{HOST}:{market_port}", nats_url=nats.url, port=port, **fields
    )
    manifest = replace(MANIFEST, owner=OWNER.identity)
    miner = ScriptedMiner(
        HOST, network=Sockets(), clock=clock, key=MINER, verify=verify, manifest=manifest
    )
    miner.port = 0
    miner.room = ROOM
    await miner.start()
    ca = fields.get("tls_certificate_file", "")
    url = f"{'https' if ca else 'http'}://{HOST}:{port}"
    try:
        async with NatsBus(nats.url) as bus:
            ledger = ScriptedLedger(bus, clock, LOCAL, verify)
            ledger.open_account("alice", SECRET, credit_nano=10**10)
            chute = chute_id(manifest).removeprefix("sha256:")
            await bus.put(f"chutes.{chute}", as_json(sign("manifest", manifest, OWNER)))
            await bus.put(f"offers.{miner.instance}", as_json(miner.offer()))
            command = Command(
                argv=(sys.executable, "-m", "penstock.gateway.app", "--config", str(config)),
                env={"PATH": os.environ["PATH"]},
                cwd=folder,
                log=folder / "gateway.log",
            )
            async with ledger.serve():
                on = Stage(url, await ChildProcess.start(command), ledger, miner, ca)
                try:
                    ready_ms = DEADLINE_S * 1000
                    await on.child.wait_ready(lambda: reached(url, ca), deadline_ms=ready_ms)
                    yield on
                finally:
                    if on.child.status is None:
                        await on.child.terminate(deadline_ms=DEADLINE_S * 1000)
    finally:
        await miner.stop()
        await market.close(0)


@asynccontextmanager
async def command(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway's process that a test ends, or that is killed behind it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.gateway.app", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()  # closes the pipe


async def booked(ledger: ScriptedLedger, count: int) -> None:
    """Wait until so many records are in the ledger."""
    async with asyncio.timeout(DEADLINE_S):
        while len(ledger.judgements) < count:
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_the_stock_client_is_served_and_a_stop_leaves_nothing_open(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with stage(nats, tmp_path) as on:
        assert await on.ask(extra_body={"top_k": 5}) == SAID
        assert await on.ask(stream=True) == SAID
        async with on.client() as client:
            assert [model.id async for model in client.models.list()] == [ALIAS]
        await booked(on.ledger, 2)
        on.miner.default = Script(word_ms=300)
        last = asyncio.create_task(on.ask())
        async with asyncio.timeout(DEADLINE_S):
            while len(on.miner.served) < 3:
                await asyncio.sleep(0.02)
        on.child.send(signal.SIGTERM)
        assert await last == SAID
        assert await on.child.wait() == 0
        await booked(on.ledger, 3)
        outcomes = [judged.outcome for judged in on.ledger.judgements.values()]
        assert outcomes == [Outcome.COMPLETE] * 3
        async with asyncio.timeout(DEADLINE_S):
            while on.ledger.held_nano:
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_the_stock_client_raises_its_own_classes(nats: RunningServer, tmp_path: Path) -> None:
    async with stage(nats, tmp_path) as on:
        with pytest.raises(openai.NotFoundError, match=ALIAS):
            await on.ask(model="nobody")
        with pytest.raises(openai.BadRequestError) as bad:
            await on.ask(max_tokens=-1)
        assert bad.value.param == "max_tokens"
        with pytest.raises(openai.AuthenticationError):
            await on.ask(secret="sk-penstock-x")
        on.ledger.open_account("poor", "sk-penstock-poor", credit_nano=5)
        with pytest.raises(openai.APIStatusError) as poor:
            await on.ask(secret="sk-penstock-poor")
        assert poor.value.status_code == 402


@pytest.mark.parametrize("network", ["elsewhere", "local"])
async def test_a_market_that_does_not_fit_ends_the_start_with_a_reason(
    tmp_path: Path, network: str
) -> None:
    routes = Routes()
    routes.add("GET", "/v1/info", Market("ed25519:" + "0" * 64, network).info)
    market = Server(Sockets(), routes, entropy=os.urandom)
    port = await market.start(HOST, 0)
    config = write_config(tmp_path, market_url=f"http://{HOST}:{port}", nats_url="nats://x:1")
    try:
        async with asyncio.timeout(DEADLINE_S), command(config) as child:
            _, said = await child.communicate()
    finally:
        await market.close(0)
    assert child.returncode == 1
    assert b"cannot start" in said


async def test_a_stop_while_the_market_is_away_ends_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, market_url="http://127.0.0.1:1", nats_url="nats://x:1")
    async with asyncio.timeout(DEADLINE_S), command(config) as child:
        assert child.stderr is not None
        assert b"market.away" in await child.stderr.readline()
        child.terminate()
        assert await child.wait() == 0


def test_a_configuration_that_is_wrong_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.json"
    assert main(["--config", str(path)]) == 2
    path.write_text('{"name": 5}')
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.count("cannot be used") == 2
