"""What the miner's bench stands on: a market of its own, a gateway played by hand, the C mock as the engine.

The miner under test is `python -m penstock.miner.app` with production's configuration: orders under a
session, MACs, digests, receipts, the outbox on disk, seals, claims to a ledger. All around it run on
the other core. The engine is the C mock of the gateway's bench, so that it costs little.
"""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from bench.gateway import cast
from bench.gateway.processes import Cores, Program, running, wait_open
from bench.gateway.targets import HOST
from bench.ground import free_port
from bench.load import Lane
from tests.stations.miner.gate import Gate

from penstock.kit.clock import SystemClock
from penstock.kit.keys import verify
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.spec.canon import to_plain
from penstock.spec.keys import parse_signed, sign
from penstock.spec.messages import Charter, Manifest, Offer, Order, chute_id
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.pricing import charge_ceiling, prompt_units_max

START_DEADLINE_S = 60
PARALLEL_MAX = 512
COMPLETION_MAX = 1024
SEAL_EVERY = 64
"""Messages under one seal, as a busy gateway makes them."""


@dataclass(slots=True)
class Market:
    """Market and ledger: takes every offer and every claim."""

    manifest: Manifest
    port: int = 0
    clock: SystemClock = field(default_factory=SystemClock)
    offers: list[dict[str, Any]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def routes(self) -> Routes:
        """What a miner asks for."""
        routes = Routes()
        routes.add("GET", "/v1/info", self.info)
        routes.add("POST", "/v1/offers", self.offer)
        routes.add("DELETE", "/v1/offers/{instance}", self.withdraw)
        routes.add("GET", "/v1/targets", self.look)
        routes.add("GET", "/v1/miners", self.miners)
        routes.add("POST", "/v1/claims", self.claim)
        return routes

    async def info(self, _request: Request) -> Response:
        """`GET /v1/info`."""
        charter = Charter(
            origin="bench.penstock.local",
            network=LOCAL.network,
            params_digest=params_digest(LOCAL),
            operator=cast.OPERATOR.identity,
            ledger=cast.OPERATOR.identity,
            market=cast.OPERATOR.identity,
            gateways=(cast.GATEWAY.identity,),
            seats=(),
        )
        said = {
            "charter": to_plain(sign("charter", charter, cast.OPERATOR)),
            "delegations": [],
            "now_ms": self.clock.now_ms(),
            "ledger_url": f"http://{HOST}:{self.port}",
            "gateway_urls": [],
        }
        return json_response(200, said)

    async def offer(self, request: Request) -> Response:
        """`POST /v1/offers`: the newest one of each instance is kept."""
        self.offers[:] = [parse_signed(json.loads(request.body)["offer"]).body]
        self.came.set()
        return json_response(200, {"now_ms": self.clock.now_ms(), "accepted": True})

    async def withdraw(self, _request: Request) -> Response:
        """`DELETE /v1/offers/{instance}`."""
        return json_response(200, {})

    async def look(self, _request: Request) -> Response:
        """`GET /v1/targets`."""
        chute = {
            "chute": chute_id(self.manifest),
            "name": self.manifest.name,
            "manifest": to_plain(sign("manifest", self.manifest, cast.OWNER)),
            "target": None,
            "serving": 0,
        }
        return json_response(200, {"targets": None, "chutes": [chute], "miners": []})

    async def miners(self, _request: Request) -> Response:
        """`GET /v1/miners`."""
        return json_response(200, {"miners": []})

    async def claim(self, request: Request) -> Response:
        """`POST /v1/claims`: all of them are known, as if the gateway had delivered them."""
        claims = json.loads(request.body)["claims"]
        states = [
            {
                "order_id": one["order"]["body"]["order_id"],
                "state": "posted",
                "outcome": "",
                "reason": "",
            }
            for one in claims
        ]
        return json_response(200, {"claims": states})


def manifest(engine_port: int) -> Manifest:
    """The chute of the gateway's bench, served by the mock."""
    source = f"http://{HOST}:{engine_port}#{cast.MODEL}"
    limits = replace(cast.MANIFEST.limits, parallel_max=PARALLEL_MAX)
    return replace(cast.MANIFEST, source=source, limits=limits, instances_max=1)


@contextmanager
def miner(folder: Path, cores: Cores, *, market_port: int) -> Iterator[tuple[int, int]]:
    """(process id, port) of a miner that serves the bench's chute."""
    home, port = folder / "miner", free_port()
    home.mkdir(parents=True)
    config = {
        "name": "bench",
        "network": LOCAL.network,
        "market_url": f"http://{HOST}:{market_port}",
        "home": str(home),
        "key_file": str(home / "key.json"),
        "host": HOST,
        "port": port,
        "operator": cast.OPERATOR.identity,
        "chutes": [cast.MODEL],
    }
    file, log = home / "config.json", folder / "miner.log"
    file.write_text(json.dumps(config))
    argv = (sys.executable, "-m", "penstock.miner.app", "--config", str(file))
    with running(Program(argv, log, cores.gateway, env={})) as child:
        wait_open(child, port, log=log, deadline_s=START_DEADLINE_S)
        yield child.pid, port


@dataclass(slots=True)
class Ask:
    """One request as bytes, and the order in it; None at the bare engine."""

    data: bytes
    order: Order | None


@dataclass(slots=True)
class Caller:
    """Makes requests and asks them, at the front under a session or at the bare engine."""

    market: Market
    client: HttpClient
    engine_port: int
    front_port: int
    gate: Gate = field(init=False)
    orders: int = 0

    async def open(self) -> None:
        """Wait for the miner's offer, then open a session."""
        async with asyncio.timeout(START_DEADLINE_S):
            await self.market.came.wait()
        self.gate = Gate(
            client=self.client,
            make=self._order,
            now_ms=self.market.clock.now_ms,
            key=cast.GATEWAY,
            miner=self.market.offers[0]["miner"],
            url=f"http://{HOST}:{self.front_port}",
            verify=verify,
        )
        self.gate.rng.seed(os.urandom(16))
        await self.gate.open()

    def ask(self, *, chunks: int, interval_us: int, is_bare: bool) -> Ask:
        """The next request; made before the clock starts."""
        port = self.engine_port if is_bare else self.front_port
        plain = cast.request(port, api_key="-", chunks=chunks, interval_us=interval_us)
        head, _, body = plain.partition(b"\r\n\r\n")
        if is_bare:
            return Ask(plain, None)
        order = self.gate.order(body, stream=bool(chunks))
        lines = [f"{name}: {value}".encode() for name, value in self.gate.headers(order)]
        return Ask(b"\r\n".join([head, *lines]) + b"\r\n\r\n" + body, order)

    async def seal(self, asked: Sequence[Ask]) -> None:
        """Exchange seals for what was answered, as the gateway does."""
        orders = [one.order for one in asked if one.order is not None]
        for start in range(0, len(orders), SEAL_EVERY):
            batch = orders[start : start + SEAL_EVERY]
            given = await self.gate.seal(batch, [one.order_id for one in batch])
            if len(given["receipts"]["order_ids"]) != len(batch):
                raise RuntimeError(f"{len(batch)} orders, and seals for {given}")

    async def health(self) -> dict[str, Any]:
        """The miner's own word on itself."""
        reply = await self.gate.client.call(
            "GET", f"{self.gate.url}/health", deadline_ms=START_DEADLINE_S * 1000
        )
        told: dict[str, Any] = msgspec.json.decode(reply.body)
        return told

    def _order(self, body: bytes, **changes: Any) -> Order:
        offer, now_ms = msgspec.convert(self.market.offers[0], Offer), self.market.clock.now_ms()
        self.orders += 1
        order = Order(
            order_id=f"o-{self.orders:032x}",
            gateway=cast.GATEWAY.identity,
            miner=offer.miner,
            instance=offer.instance,
            chute=offer.chute,
            payer_tag="a" * 64,
            path=cast.CHAT_PATH,
            stream=False,
            request_digest=hashlib.sha256(body).hexdigest(),
            price=offer.price,
            prompt_max=prompt_units_max(len(body)),
            completion_max=COMPLETION_MAX,
            images_max=0,
            audio_ms_max=0,
            charge_max=0,
            issued_ms=now_ms,
            deadline_ms=now_ms + LOCAL.order_ttl_ms,
            seed=7,
            nonce="n" * 32,
            decision_digest="",
        )
        order = replace(order, **changes)
        ceiling = charge_ceiling(
            order.price, prompt_max=order.prompt_max, completion_max=order.completion_max
        )
        return replace(order, charge_max=ceiling)


@asynccontextmanager
async def calling(
    folder: Path, cores: Cores, *, engine_port: int
) -> AsyncIterator[tuple[Caller, int]]:
    """A caller before a miner that serves, and the miner's process id."""
    market = Market(manifest(engine_port))
    server = Server(Sockets(), market.routes(), entropy=os.urandom)
    market.port = await server.start(HOST, 0)
    client = HttpClient(Sockets())
    try:
        with ExitStack() as stack:
            # In a thread: the miner starts and drains while this loop answers it as its market.
            start = miner(folder, cores, market_port=market.port)
            pid, port = await asyncio.to_thread(stack.enter_context, start)
            caller = Caller(market, client, engine_port, port)
            await caller.open()
            yield caller, pid
            await asyncio.to_thread(stack.close)
    finally:
        await client.close()
        await server.close(0)


async def connect(port: int) -> Lane:
    """A fresh connection."""
    _, lane = await asyncio.get_running_loop().create_connection(Lane, HOST, port)
    return lane
