"""The rest of the market for a gateway that is measured: `python -m bench.gateway.market SETTINGS`.

The charter at `/v1/info`, manifest and offers on the board (renewed every beat, as instances do), a
ledger that knows one key and grants it leases over the bus, and a consumer of the records. Every
`JUDGE_EVERY`th record is judged by the law itself: a gateway that saved itself a signature, a digest
or a decision would be seen. `/bench/books` tells what came in.
"""

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvloop
from bench.gateway.cast import API_KEY, GATEWAY, INSTANCES, MANIFEST, OPERATOR, OWNER, offer
from bench.gateway.cast import MINER as MINER_KEY

from penstock.adapters.nats import NatsBus
from penstock.kit.clock import SystemClock
from penstock.kit.keys import verify
from penstock.kit.tasks import Scope
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Charter, chute_id
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.receipts import Outcome, judge, parse_record

ACCOUNT = "bench"
LEASE_NANO = 10**15
JUDGE_EVERY = 97
NICE = 10
"""Booking must not take the core from the load while the gateway is measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where everything is."""

    nats_url: str
    port: int
    endpoint: str


@dataclass(slots=True)
class Books:
    """What came in over the bus. `bad` records did not hold, `odd` ones had no complete outcome."""

    records: int = 0
    events: int = 0
    judged: int = 0
    bad: int = 0
    odd: int = 0
    sealed: int = 0
    decided: int = 0
    spent_nano: int = 0
    first_bad: str = ""


@dataclass(slots=True)
class Market:
    """Market and ledger in one."""

    bus: NatsBus
    settings: Settings
    books: Books = field(default_factory=Books)
    clock: SystemClock = field(default_factory=SystemClock)
    granted_nano: int = 0

    async def info(self, request: Request) -> Response:
        """`GET /v1/info`: the charter."""
        del request
        charter = Charter(
            origin="bench.penstock.local",
            network=LOCAL.network,
            params_digest=params_digest(LOCAL),
            operator=OPERATOR.identity,
            ledger=OPERATOR.identity,
            market=OPERATOR.identity,
            gateways=(GATEWAY.identity,),
            seats=(),
        )
        return json_response(
            200,
            {
                "charter": to_plain(sign("charter", charter, OPERATOR)),
                "now_ms": self.clock.now_ms(),
                "ledger_url": f"http://127.0.0.1:{self.settings.port}",
            },
        )

    async def tell(self, request: Request) -> Response:
        """`GET /bench/books`."""
        del request
        return json_response(200, asdict(self.books))

    async def lease(self, data: bytes) -> bytes:
        """`ledger.lease`: as much as is asked for, and plenty."""
        asked = json.loads(data)
        if asked["key_hash"] != sha256(API_KEY.encode()).hexdigest():
            return b'{"error": "unknown_key"}'
        self.granted_nano += LEASE_NANO if not self.granted_nano else asked["need_nano"]
        answer = {
            "account": ACCOUNT,
            "lease_id": asked["lease_id"] or f"l-{1:032x}",
            "granted_nano": self.granted_nano,
            "expires_ms": self.clock.now_ms() + LOCAL.lease_ttl_ms,
        }
        return json.dumps(answer).encode()

    async def renew(self) -> None:
        """For ever: offers of all instances, every beat."""
        key = f"chutes.{chute_id(MANIFEST).removeprefix('sha256:')}"
        await self.bus.put(key, _spelled(sign("manifest", MANIFEST, OWNER)))
        for seq in range(1, 1 << 30):
            for number in range(1, INSTANCES + 1):
                said = offer(
                    number,
                    endpoint=self.settings.endpoint,
                    now_ms=self.clock.now_ms(),
                    ttl_ms=LOCAL.offer_ttl_ms,
                    seq=seq,
                )
                signed = sign("offer", said, MINER_KEY)
                await self.bus.put(f"offers.{said.instance}", _spelled(signed))
            await asyncio.sleep(LOCAL.beat_ms / 1000)

    async def book(self) -> None:
        """For ever: count the records, judge some."""
        async for delivery in self.bus.consume("events.>", group="bench"):
            event = json.loads(delivery.data)
            self.books.events += 1
            for one in event.get("records", [event]):
                if "record" in one:
                    self._take(one["record"])
            await delivery.ack()

    def _take(self, plain: dict[str, Any]) -> None:
        self.books.records += 1
        if self.books.records % JUDGE_EVERY and self.books.records > JUDGE_EVERY:
            return
        self.books.judged += 1
        try:
            judgement = judge(
                parse_record(plain), refusal_free_ms=LOCAL.refusal_free_ms, verify=verify
            )
        except SpecError as error:
            self.books.bad += 1
            self.books.first_bad = self.books.first_bad or str(error)
            return
        self.books.odd += judgement.outcome is not Outcome.COMPLETE
        self.books.spent_nano += judgement.charge_nano
        self.books.decided += plain.get("decision") is not None
        words = (plain["order"], plain["receipt"], plain["countersign"])
        self.books.sealed += all(word and word["signature"].startswith("seal1") for word in words)


def _spelled(signed: Signed) -> bytes:
    return json.dumps(to_plain(signed)).encode()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM; it listens when offers are up."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with NatsBus(settings.nats_url, name="bench-market") as bus:
        market = Market(bus, settings)
        routes = Routes()
        routes.add("GET", "/v1/info", market.info)
        routes.add("GET", "/bench/books", market.tell)
        server = Server(Sockets(), routes, entropy=os.urandom)
        async with bus.answer("ledger.lease", market.lease), Scope() as scope:
            scope.start("offers", market.renew())
            scope.start("books", market.book())
            await server.start("127.0.0.1", settings.port)
            await stopped.wait()
            await server.close(0)
            scope.cancel()


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(serve(Settings(**json.loads(Path(sys.argv[1]).read_text()))))
