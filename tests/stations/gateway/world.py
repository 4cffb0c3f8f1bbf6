"""One gateway, its ledger and some miners on a memory network and in virtual time."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.makers import GATEWAY, MANIFEST, OWNER, ToyKey, toy_verify
from tests.stations.gateway.scripted_ledger import ScriptedLedger
from tests.stations.gateway.scripted_miner import ScriptedMiner

from penstock.gateway.config import (
    AddressLimits,
    BatchBounds,
    Bounds,
    Deadlines,
    KeyLimits,
    PayerLimits,
    StoreBounds,
)
from penstock.gateway.routes import build_site
from penstock.gateway.service import Gateway
from penstock.kit.sse import EventSplitter, event_data, is_comment, parse_comment
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.server import Server
from penstock.sim.bus import MemoryBus
from penstock.sim.loop import VirtualClock, VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.stores_blobs import MemoryStore
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Manifest, chute_id
from penstock.spec.params import LOCAL, Params
from penstock.spec.receipts import Outcome

SECRET = "sk-penstock-alice"
ACCOUNT = "alice"
CREDIT_NANO = 10_000_000_000
PORT = 8_080
URL = f"http://gateway:{PORT}"
CHAT = "/v1/chat/completions"
ALIAS = "tiny-chat"


def chat(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """A small, valid chat request."""
    body = {
        "model": ALIAS,
        "messages": [{"role": "user", "content": "What does water do?"}],
        "stream": stream,
        "max_tokens": 16,
    }
    return {**body, **fields}


@dataclass(frozen=True)
class Heard:
    """A streamed answer as a client hears it."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def text(self) -> str:
        parts = [json.loads(data) for data in self.data if data != b"[DONE]"]
        choices = [choice for part in parts for choice in part.get("choices", [])]
        return "".join(choice["delta"]["content"] for choice in choices)

    @property
    def events(self) -> list[bytes]:
        return EventSplitter().feed(self.raw)

    @property
    def data(self) -> list[bytes]:
        return [event_data(event) for event in self.events if not is_comment(event)]

    def word(self, name: str) -> dict[str, Any]:
        """The body of the last of our comments with this name, signed or vouched for."""
        named = [parse_comment(event) for event in self.events]
        body: dict[str, Any] = [json.loads(one[1]) for one in named if one and one[0] == name][-1][
            "body"
        ]
        return body


@dataclass
class World:
    """What a scenario is given."""

    loop: VirtualLoop
    params: Params = LOCAL
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    payer_limits: PayerLimits = field(default_factory=PayerLimits)
    address_limits: AddressLimits = field(default_factory=AddressLimits)
    deadlines: Deadlines = field(default_factory=Deadlines)
    bounds: Bounds = field(default_factory=Bounds)
    store_bounds: StoreBounds = field(default_factory=StoreBounds)
    batch_bounds: BatchBounds = field(default_factory=BatchBounds)
    keeps_files: bool = False
    gateway_key: ToyKey = GATEWAY
    has_sessions: bool = True
    miners: dict[str, ScriptedMiner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = VirtualClock(self.loop)
        self.rng = random.Random(5)
        self.network = MemoryNetwork(random.Random(1), self.loop, delay_us=(100, 1_000))
        self.bus = MemoryBus()
        self.store = MemoryStore(self.clock)
        self.ledger = ScriptedLedger(self.bus, self.clock, self.params, toy_verify)
        self.ledger.open_account(ACCOUNT, SECRET, credit_nano=CREDIT_NANO)
        self.gateway = Gateway(
            name="gw",
            clock=self.clock,
            bus=self.bus,
            http=HttpClient(self.network.at("gateway")),
            sign=self.gateway_key,
            verify=toy_verify,
            entropy=self.rng.randbytes,
            params=self.params,
            tag_secret=b"secret",
            ledger_url="http://ledger:1",
            key_limits=self.key_limits,
            payer_limits=self.payer_limits,
            address_limits=self.address_limits,
            deadlines=self.deadlines,
            bounds=self.bounds,
            store=self.store if self.keeps_files else None,
            store_bounds=self.store_bounds,
            batch_bounds=self.batch_bounds,
        )
        self.server = Server(
            self.network.at("gateway"),
            build_site(self.gateway),
            entropy=self.rng.randbytes,
            hot=self.gateway.hot_paths(),
        )
        self.client = HttpClient(self.network.at("client"))

    async def add_miner(self, host: str, manifest: Manifest = MANIFEST) -> ScriptedMiner:
        """A running miner with an offer on the board."""
        miner = ScriptedMiner(
            host,
            network=self.network.at(host),
            clock=self.clock,
            key=ToyKey(host),
            verify=toy_verify,
            manifest=manifest,
        )
        miner.has_sessions = self.has_sessions
        await miner.start()
        self.miners[host] = miner
        await self.put_manifest(manifest)
        await self.put_offer(miner)
        await self.meet(miner)
        return miner

    async def meet(self, miner: ScriptedMiner) -> None:
        """Let the gateway agree on a session with this miner, as it does after the first order."""
        sessions = self.gateway.sessions
        peer = sessions.peer_of(f"http://{miner.host}:{miner.port}", miner.key.identity)
        sessions.session_of(peer)
        await settle()

    async def put_manifest(self, manifest: Manifest) -> None:
        key = f"chutes.{chute_id(manifest).removeprefix('sha256:')}"
        await self.bus.put(key, as_json(sign("manifest", manifest, OWNER)))
        await settle()

    async def put_offer(self, miner: ScriptedMiner, **changes: Any) -> None:
        await self.bus.put(f"offers.{miner.instance}", as_json(miner.offer(**changes)))
        await settle()

    async def post(
        self, body: object, path: str = CHAT, *, secret: str = SECRET, deadline_ms: int = 600_000
    ) -> Reply:
        """A whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.call(
            "POST", URL + path, headers=bearer(secret), body=data, deadline_ms=deadline_ms
        )

    async def get(self, path: str, *, secret: str = SECRET) -> Reply:
        return await self.client.call("GET", URL + path, headers=bearer(secret), deadline_ms=60_000)

    async def hear(self, body: object, path: str = CHAT, *, leave_after: int = -1) -> Heard:
        """A streamed answer, to its end or until `leave_after` chunks came."""
        data = json.dumps(body).encode()
        raw, count = b"", 0
        async with self.client.open_stream(
            "POST", URL + path, headers=bearer(SECRET), body=data, head_deadline_ms=600_000
        ) as reply:
            async for chunk in reply.chunks(idle_deadline_ms=600_000):
                raw += chunk
                count += 1
                if count == leave_after:
                    break
            headers = {k.decode(): v.decode() for k, v in reply.headers.items()}
            return Heard(reply.status, headers, raw)

    async def at_rest(self) -> None:
        """Wait until the gateway has ended every order and delivered every record."""
        await settle()
        await self.gateway.closing.wait_quiet(deadline_ms=60_000)
        async with asyncio.timeout(120):
            while self.gateway.sealer.waiting:
                await asyncio.sleep(0.05)
        assert await self.gateway.recorder.flush(deadline_ms=60_000)
        await settle()
        assert self.gateway.leases.held_nano == 0
        assert self.gateway.admission.running == 0
        assert not self.gateway.passages
        for found in self.miners.values():
            known = self.gateway.directory.instances(chute_id(found.manifest))
            assert all(one.running == 0 for one in known)

    def outcomes(self) -> list[Outcome]:
        """What the ledger booked, in order."""
        return [judgement.outcome for judgement in self.ledger.judgements.values()]

    def charged_nano(self) -> int:
        return self.ledger.accounts[ACCOUNT].charged_nano


Scenario = Callable[[World], Awaitable[None]]


def play(scenario: Scenario, **world_fields: Any) -> None:
    """Run a scenario to its end; afterwards nothing may be held, owed or unpublished.

    Unless it is told, it is run twice: with miners that keep sessions and with some that do not.
    """
    told = world_fields.pop("has_sessions", None)
    for has_sessions in (True, False) if told is None else (told,):
        _play_once(scenario, has_sessions=has_sessions, **world_fields)


def _play_once(scenario: Scenario, **world_fields: Any) -> None:
    loop = VirtualLoop(horizon_ms=4 * 3_600_000)

    async def main() -> None:
        world = World(loop, **world_fields)
        async with world.ledger.serve(), Scope() as scope:
            world.gateway.start(scope)
            await world.server.start("gateway", PORT)
            await settle()
            await scenario(world)
            world.bus.down = False
            await world.server.close(1_000)
            await world.gateway.stop()
            await settle()
            assert world.gateway.recorder.waiting == 0
            assert world.gateway.leases.held_nano == 0
            assert world.gateway.sealer.waiting == 0
            assert not world.gateway.passages
            assert not world.gateway.line.trailing
            assert world.ledger.held_nano == 0, "every lease was given back"
            scope.cancel()

    run(main(), loop)


async def settle() -> None:
    """Let everything that is on its way arrive."""
    await asyncio.sleep(0.2)


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),) if secret else ()


def as_json(signed: Signed) -> bytes:
    return json.dumps(to_plain(signed)).encode()


def error_of(reply: Reply) -> dict[str, Any]:
    """The error envelope, complete."""
    error: dict[str, Any] = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == reply.header("x-request-id")
    return error


def renamed(name: str, **changes: Any) -> Manifest:
    """Another manifest like MANIFEST."""
    return replace(MANIFEST, name=name, **changes)
