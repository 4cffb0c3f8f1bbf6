"""A miner on a memory network in virtual time, with a market, a ledger and a gateway played by hand."""

import asyncio
import base64
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from tests.makers import GATEWAY, MANIFEST, MINER, OWNER, ToyKey, toy_verify
from tests.stations.miner.answer import Answer
from tests.stations.miner.scripted_engine import Scripted

from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.kit.engine import Engine
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_road import Road
from penstock.miner.config import Deadlines, MinerConfig
from penstock.miner.hardware import Hardware
from penstock.miner.instance import Launch
from penstock.miner.ports import Ports
from penstock.miner.service import Miner
from penstock.miner.station import run_miner
from penstock.sim.loop import VirtualClock, VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.stores_miner import MemoryOutbox
from penstock.sim.tunnels import shown_channel
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, open_signed, parse_signed, sign
from penstock.spec.messages import Charter, Manifest, Offer, Order, chute_id
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.pricing import charge_ceiling, prompt_units_max

OPERATOR = ToyKey("operator")
CHAT = "/v1/chat/completions"
DEADLINE_MS = 60_000
HARDWARE = Hardware(
    kind="cpu", model="Test CPU", cores=2, memory_bytes=1 << 30, gpus=(), device="d" * 64
)


CHARTER = Charter(
    origin="test",
    network="local",
    params_digest=params_digest(LOCAL),
    operator=OPERATOR.identity,
    ledger=ToyKey("ledger").identity,
    market=ToyKey("market").identity,
    gateways=(GATEWAY.identity,),
    seats=(),
)


@dataclass
class FakeMarket:
    """What a market and a ledger answer, and what they were told."""

    clock: VirtualClock
    manifests: list[Manifest] = field(default_factory=lambda: [MANIFEST])
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    miners: list[str] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    charter: Signed = field(default_factory=lambda: sign("charter", CHARTER, OPERATOR))
    delegations: list[Signed] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    delegated: list[Any] = field(default_factory=list)
    withdrawn: list[Offer] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    claim_state: str = "posted"
    gateway_urls: list[Any] = field(default_factory=list)
    unreadable: str = ""
    """A claim of this order id makes the ledger refuse the whole batch."""
    refused: list[int] = field(default_factory=list)
    """Sizes of the batches that were refused for it."""
    ahead_ms: int = 0
    """How far the market's clock is ahead of the world's."""
    down: bool = False
    refuse: dict[str, Response] = field(default_factory=dict)
    """Path -> the answer to give instead."""

    def routes(self) -> Routes:
        routes = Routes()
        for method, path, handler in (
            ("GET", "/v1/info", self.info),
            ("POST", "/v1/offers", self.offer),
            ("DELETE", "/v1/offers/{instance}", self.withdraw),
            ("GET", "/v1/targets", self.look),
            ("GET", "/v1/miners", self.who),
            ("POST", "/v1/claims", self.claim),
        ):
            routes.add(method, path, self.guarded(handler))
        return routes

    def guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guard(request: Request) -> Response:
            if self.down:
                return json_response(503, {"error": {"code": "bus_down", "message": "down"}})
            return self.refuse.get(request.path) or await handler(request)

        return guard

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms() + self.ahead_ms

    async def info(self, _request: Request) -> Response:
        return json_response(
            200,
            {
                "charter": to_plain(self.charter),
                "delegations": [to_plain(one) for one in self.delegations],
                "now_ms": self.now_ms,
                "ledger_url": "http://market:80",
                "gateway_urls": self.gateway_urls,
            },
        )

    async def offer(self, request: Request) -> Response:
        body = msgspec.json.decode(request.body)
        signed = parse_signed(body["offer"])
        offer = open_signed(Offer, signed, kind="offer", verify=toy_verify)
        self.offers.append(offer)
        self.delegated.append(body["delegation"])
        return json_response(200, {"now_ms": self.now_ms, "accepted": True})

    async def withdraw(self, request: Request) -> Response:
        signed = parse_signed(msgspec.json.decode(request.body))
        offer = open_signed(Offer, signed, kind="offer", verify=toy_verify)
        assert offer.instance == request.params["instance"]
        self.withdrawn.append(offer)
        return json_response(200, {})

    async def look(self, _request: Request) -> Response:
        chutes = [
            {
                "chute": chute_id(manifest),
                "name": manifest.name,
                "manifest": to_plain(sign("manifest", manifest, OWNER)),
                "target": self.targets.get(manifest.name),
                "serving": 0,
            }
            for manifest in self.manifests
        ]
        return json_response(200, {"targets": None, "chutes": chutes, "miners": self.miners})

    async def who(self, _request: Request) -> Response:
        return json_response(200, {"miners": self.listed})

    async def claim(self, request: Request) -> Response:
        claims = msgspec.json.decode(request.body)["claims"]
        if self.unreadable in {claim["order"]["body"]["order_id"] for claim in claims}:
            self.refused.append(len(claims))
            return problem(422, "bad_claims", "one of them cannot be read")
        self.claims += claims
        states = [
            {
                "order_id": claim["order"]["body"]["order_id"],
                "state": self.claim_state,
                "outcome": "",
                "reason": "",
            }
            for claim in claims
        ]
        return json_response(200, {"claims": states})


def chat_body(text: str = "one two three", **fields: Any) -> bytes:
    return msgspec.json.encode(
        {"model": "tiny-chat", "messages": [{"role": "user", "content": text}], **fields}
    )


def header_of(signed: Signed) -> str:
    data = msgspec.json.encode(to_plain(signed))
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


CONFIG = MinerConfig(
    name="m",
    network="local",
    market_url="http://market:80",
    home="",
    key_file="",
    host="miner",
    port=9000,
    chutes=("tiny-chat",),
    deadlines=Deadlines(drain_ms=5_000, engine_idle_ms=10_000),
)


@dataclass
class World:
    """Everything a test touches. Make one with `playing`."""

    loop: VirtualLoop
    network: MemoryNetwork
    clock: VirtualClock
    market: FakeMarket
    store: MemoryOutbox
    client: HttpClient
    config: MinerConfig = CONFIG
    engines: Callable[[Launch], Engine] | None = None
    journal: MemoryOutbox = field(default_factory=MemoryOutbox)
    hardware: Hardware = HARDWARE
    engine: Any = None
    engine_kinds: frozenset[str] = frozenset({"echo"})
    miner: Miner = field(init=False)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    orders: int = 0

    def scripted(self, handler: Any) -> Scripted:
        """Use one scripted engine for all instances."""
        engine = Scripted(self.network.at("miner"), handler)
        self.engine = engine
        self.engines = lambda _launch: engine
        return engine

    def echo(self, *, token_ms: int = 0) -> None:
        def build(launch: Launch) -> Engine:
            slots_max = launch.manifest.limits.parallel_max
            settings = EchoSettings(token_ms=token_ms, slots_max=slots_max)
            network = self.network.at("miner")
            return Echo(settings, network=network, entropy=random.Random(3).randbytes)

        self.engines = build

    def ports(self) -> Ports:
        network = self.network.at("miner")
        assert self.engines is not None
        return Ports(
            clock=self.clock,
            network=network,
            client=HttpClient(network),
            key=MINER,
            verify=toy_verify,
            entropy=random.Random(1).randbytes,
            engines=self.engines,
            engine_kinds=self.engine_kinds,
            store=self.store,
            journal=self.journal,
            road=Road(network, shown_channel),
        )

    async def until(self, condition: Callable[[], object], *, within_ms: int = 60_000) -> None:
        """Virtual time passes until the condition holds."""
        async with asyncio.timeout(within_ms / 1000):
            while not condition():
                await asyncio.sleep(0.01)

    async def ready(self) -> Offer:
        """The first offer has come."""
        await self.until(lambda: self.market.offers)
        return self.market.offers[-1]

    def order(self, body: bytes, **changes: Any) -> Order:
        """A fair order for the newest offer."""
        offer = self.market.offers[-1]
        self.orders += 1
        stream = bool(msgspec.json.decode(body).get("stream")) if body.startswith(b"{") else False
        now_ms = self.market.now_ms
        order = Order(
            order_id=f"o-{self.orders}",
            gateway=GATEWAY.identity,
            miner=MINER.identity,
            instance=offer.instance,
            chute=offer.chute,
            payer_tag="p",
            path=CHAT,
            stream=stream,
            request_digest=hashlib.sha256(body).hexdigest(),
            price=offer.price,
            prompt_max=prompt_units_max(len(body)),
            completion_max=50,
            images_max=0,
            audio_ms_max=0,
            charge_max=0,
            issued_ms=now_ms,
            deadline_ms=now_ms + LOCAL.order_ttl_ms,
            seed=7,
            nonce="n",
            decision_digest="",
        )
        order = replace(order, **changes)
        if "charge_max" in changes:
            return order
        ceiling = charge_ceiling(
            order.price, prompt_max=order.prompt_max, completion_max=order.completion_max
        )
        return replace(order, charge_max=ceiling)

    async def call(self, body: bytes, *, key: ToyKey = GATEWAY, **changes: Any) -> Answer:
        """Place a fair order (with changes) and read the whole answer."""
        return await self.post(sign("order", self.order(body, **changes), key), body)

    async def post(self, signed: Signed, body: bytes, *, path: str = CHAT) -> Answer:
        reply = await self.client.call(
            "POST",
            f"http://miner:9000{path}",
            headers=(("x-penstock-order", header_of(signed)),),
            body=body,
            deadline_ms=DEADLINE_MS,
        )
        return Answer(reply.status, reply.headers, reply.body, signed)

    async def get(self, path: str) -> Reply:
        return await self.client.call("GET", f"http://miner:9000{path}", deadline_ms=DEADLINE_MS)

    async def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode((await self.get("/health")).body)
        return answer

    async def cancel(self, signed: Signed) -> Reply:
        return await self.client.call(
            "POST",
            f"http://miner:9000/v1/cancel/{signed.body['order_id']}",
            body=msgspec.json.encode(to_plain(signed)),
            deadline_ms=DEADLINE_MS,
        )

    async def run_miner(self) -> None:
        """One life of the miner, until `stop`."""
        started = asyncio.get_running_loop().create_future()
        self.stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                run_miner(
                    self.ports(),
                    self.config,
                    params=LOCAL,
                    hardware=self.hardware,
                    stop=self.stop,
                    started=started,
                )
            )
            self.miner = await started

    @property
    def kept(self) -> list[str]:
        """Order ids in the outbox's journal."""
        lines = [msgspec.json.decode(line) for line in self.store.load()]
        return [line["order"]["body"]["order_id"] for line in lines if "order" in line]


def playing(
    scenario: Callable[[World], Awaitable[None]],
    *,
    prepare: Callable[[World], None] = lambda world: None,
) -> None:
    """Run a scenario against a miner: prepared, started, and stopped at the end."""
    loop = VirtualLoop(horizon_ms=3_600_000)

    async def main() -> None:
        rng = random.Random(11)
        network = MemoryNetwork(rng, loop, delay_us=(500, 1_500))
        clock = VirtualClock(loop)
        market = FakeMarket(clock)
        world = World(
            loop=loop,
            network=network,
            clock=clock,
            market=market,
            store=MemoryOutbox(),
            client=HttpClient(network.at("gateway")),
        )
        world.echo()
        prepare(world)
        server = Server(network.at("market"), market.routes(), entropy=rng.randbytes)
        await server.start("market", 80)
        async with asyncio.TaskGroup() as group:
            group.create_task(world.run_miner())
            await asyncio.sleep(0)
            await world.until(lambda: hasattr(world, "miner"))
            await scenario(world)
            world.stop.set()
        await world.client.close()
        await server.close(0)

    run(main(), loop)
