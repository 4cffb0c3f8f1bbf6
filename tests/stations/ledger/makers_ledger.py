"""A ledger on memory ports, and makers of what is said to it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.makers import (
    GATEWAY,
    MINER,
    OWNER,
    ToyKey,
    make_countersign,
    make_order,
    make_receipt,
    toy_verify,
)

from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, Delivery
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.problem import Refusal
from penstock.ledger.ports import Store
from penstock.ledger.routes import routes
from penstock.ledger.service import Ledger
from penstock.sim.bus import MemoryBus
from penstock.sim.disk import MemoryFiles
from penstock.sim.stores_ledger import MemoryLedgerStore
from penstock.spec.accounts import AccountOpening
from penstock.spec.books import OPERATOR, POOL, Balance, miner_account, payer_account
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Charter, Report, Score, Seat
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.receipts import Outcome, Record

LOG_KEY = Ed25519Key(b"\7" * 32)
MARKET, VALIDATOR, SECOND_VALIDATOR = ToyKey("market"), ToyKey("validator"), ToyKey("second")
OPERATOR_KEY = OWNER
PARAMS = LOCAL
START_MS = 1_700_000_040_000
ORIGIN = "test.example/log"
KEY = "sk-penstock-test"
KEY_HASH = hashlib.sha256(KEY.encode()).hexdigest()
LEASE_ID = "l-" + "0" * 32
USD = 1_000_000_000
BIG_DISK = 1 << 30


def either_verify(identity: str, digest: bytes, signature: str) -> bool:
    """Real keys and the toy scheme."""
    return toy_verify(identity, digest, signature) or verify(identity, digest, signature)


@dataclass
class HandClock:
    """Time that stands until it is moved."""

    at_ms: int = START_MS

    def now_ms(self) -> int:
        return self.at_ms

    def mono_us(self) -> int:
        return self.at_ms * 1000

    def pass_ms(self, span_ms: int) -> None:
        self.at_ms += span_ms


def charter(**changes: Any) -> Signed:
    said = Charter(
        origin=ORIGIN,
        network=PARAMS.network,
        params_digest=params_digest(PARAMS),
        operator=OPERATOR_KEY.identity,
        ledger=LOG_KEY.identity,
        market=MARKET.identity,
        gateways=(GATEWAY.identity,),
        seats=(Seat(VALIDATOR.identity, 10), Seat(SECOND_VALIDATOR.identity, 10)),
    )
    return sign("charter", replace(said, **changes), OPERATOR_KEY)


@dataclass
class World:
    """A started ledger and its surroundings."""

    store: Store = field(default_factory=MemoryLedgerStore)
    clock: HandClock = field(default_factory=HandClock)
    files: MemoryFiles = field(default_factory=lambda: MemoryFiles(bytes_max=BIG_DISK))
    bus: MemoryBus = field(default_factory=MemoryBus)
    charter: Signed = field(default_factory=charter)
    acked: list[str] = field(default_factory=list)
    rng: Random = field(default_factory=lambda: Random(5))
    ledger: Ledger = field(init=False)

    async def start(self) -> "World":
        """Make a ledger over what is there: again for a restart."""
        self.ledger = Ledger(
            charter=self.charter,
            params=PARAMS,
            store=self.store,
            bus=self.bus,
            files=self.files,
            key=LOG_KEY,
            verify=either_verify,
            clock=self.clock,
            entropy=self.rng.randbytes,
            metrics=Metrics(),
        )
        await self.ledger.start()
        return self

    # What is said to it -------------------------------------------------------------------------

    async def take(self, *events: tuple[str, dict[str, Any] | bytes]) -> None:
        """Events in one batch."""
        await self.ledger.consumer.take([self.delivery(*event) for event in events])

    def delivery(self, subject: str, data: dict[str, Any] | bytes) -> Delivery:
        async def ack() -> None:
            self.acked.append(subject)

        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        return Delivery(subject=subject, data=raw, attempt=1, ack=ack)

    def quiet(self) -> None:
        """All that gateways have said is taken in."""
        self.ledger.consumer.quiet_ms = self.clock.now_ms()

    async def fund(self, nano: int = USD, **changes: Any) -> None:
        await self.ledger.open_account(opening(credit_nano=nano, **changes))

    async def lease(self, need_nano: int = 1, **changes: Any) -> dict[str, Any]:
        question = {
            "gateway": GATEWAY.identity,
            "key_hash": KEY_HASH,
            "lease_id": "",
            "need_nano": need_nano,
            **changes,
        }
        answer = await self.ledger.answer_lease(json.dumps(question).encode())
        found: dict[str, Any] = json.loads(answer)
        return found

    async def leased(self, nano: int = USD) -> str:
        """A funded account and the id of a lease on it."""
        await self.fund(nano)
        found: str = (await self.lease())["lease_id"]
        return found

    async def step(self, span_ms: int = 0) -> None:
        """Let time pass quietly, then do what is due."""
        self.clock.pass_ms(span_ms)
        self.quiet()
        await self.ledger.upkeep.step()

    async def end_epoch(self) -> int:
        """Let the open epoch end and close; returns its number."""
        number = (await self.ledger.epochs())["epoch"]
        end_ms = (number + 1) * PARAMS.epoch_ms + PARAMS.close_grace_ms
        await self.step(max(0, end_ms - self.clock.now_ms()))
        return int(number)

    async def report(self, epoch: int, key: ToyKey = VALIDATOR, **changes: Any) -> Signed:
        """A report on a published epoch."""
        about = self.file(f"epochs/{epoch:08d}/epoch.json")
        size, root = checkpoint_of(about["checkpoint"])
        said = Report(
            validator=key.identity,
            epoch=epoch,
            policy=PARAMS.policy,
            log_size=size,
            log_root=root,
            evidence_digest="00" * 32,
            scores=(score(MINER.identity, 600_000),),
        )
        return sign("report", replace(said, **changes), key)

    # What it says -------------------------------------------------------------------------------

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return await self.call("GET", path, b"", **headers)

    async def call(
        self, method: str, path: str, body: object = b"", **headers: str
    ) -> tuple[int, Any]:
        """(status, decoded body) of a request to the routes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.encode(): value.encode() for name, value in headers.items()}
        request = Request(method=method, path=path, body=raw, headers=sent, request_id="r")
        try:
            response = await routes(self.ledger)(request)
        except Refusal as refusal:
            response = refusal.response
        assert not isinstance(response, Stream)
        return response.status, decoded(response)

    def file(self, name: str) -> Any:
        return json.loads(self.files.read(name))

    async def balance(self, account: str) -> Balance:
        return await self.store.balance(account)

    async def posted(self, account: str) -> int:
        return (await self.balance(account)).posted_nano

    async def everyone(self) -> dict[str, int]:
        """The posted balances that tests look at."""
        names = {
            "payer": payer_account("ann"),
            "miner": miner_account(MINER.identity),
            "operator": OPERATOR,
            "pool": POOL,
            "reserve": "reserve",
            "mint": "mint",
        }
        return {short: await self.posted(name) for short, name in names.items()}

    def rejected(self, reason: str) -> int:
        return int(self.ledger.metrics.value("ledger_rejected_total", reason=reason))

    def fate(self, fate: str) -> int:
        return int(self.ledger.metrics.value("ledger_arrivals_total", fate=fate))


def decoded(response: Response) -> Any:
    kinds = dict(response.headers)
    if kinds.get("content-type") == "application/json":
        return json.loads(response.body)
    return response.body


def opening(**changes: Any) -> Signed:
    values: dict[str, Any] = {
        "account": "ann",
        "key_hash": KEY_HASH,
        "credit_nano": USD,
        "opening_id": "first",
        **changes,
    }
    return sign("account", AccountOpening(**values), OPERATOR_KEY)


def score(miner: str, total_ppm: int) -> Score:
    return Score(
        miner=miner,
        total_ppm=total_ppm,
        capacity_ppm=total_ppm,
        speed_ppm=0,
        availability_ppm=0,
        bounties_ppm=0,
    )


def checkpoint_of(note: str) -> tuple[int, str]:
    """(size, root in hex) of a checkpoint note."""
    import base64

    lines = note.split("\n")
    return int(lines[1]), base64.b64decode(lines[2]).hex()


def order_id(number: int) -> str:
    return f"o-{number:032x}"


def record(number: int = 1, **changes: Any) -> Record:
    """A complete record of order `number`; changes go to the countersignature."""
    order = make_order(order_id=order_id(number))
    receipt = sign("receipt", make_receipt(order), MINER)
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, receipt, **changes), GATEWAY),
    )


def unseen(number: int = 1) -> Record:
    """The same order with a receipt, but no word of the gateway: what a claim is made of."""
    return replace(record(number), countersign=None)


def failed(number: int = 1) -> Record:
    """An order that its miner failed."""
    order = make_order(order_id=order_id(number))
    seen = make_countersign(order, None, outcome=Outcome.MINER_FAILED)
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=None,
        checkpoint=None,
        countersign=sign("countersign", seen, GATEWAY),
    )


CHARGE = int(record().countersign.body["charge_nano"])  # type: ignore[union-attr] # it has one


def record_event(
    said: Record, *, lease_id: str = LEASE_ID, account: str = "ann"
) -> tuple[str, dict[str, Any]]:
    body = {"record": to_plain(said), "account": account, "lease_id": lease_id}
    return "events.record.gw", body


def closing_event(lease_id: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "events.lease.gw", {"lease_id": lease_id, "close": True, **more}


def word_event(kind: str, entry_id: str, signed: Signed) -> tuple[str, dict[str, Any]]:
    return "events.log.market", {"kind": kind, "id": entry_id, "body": to_plain(signed)}


def claim(number: int = 1) -> dict[str, Any]:
    said = unseen(number)
    return {"order": to_plain(said.order), "receipt": to_plain(said.receipt)}


def posted_sum(balances: Sequence[int] | dict[str, int]) -> int:
    return sum(balances.values() if isinstance(balances, dict) else balances)


class LostAck(Exception):
    """Raised by tests where a crash is played."""


async def refuse_ack() -> None:
    raise BusDown("the ack was lost")
