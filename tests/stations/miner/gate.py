"""A gateway that has sessions, played by hand: it vouches for orders, seals them and asks for seals."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from tests.makers import GATEWAY, MINER, ToyKey, toy_verify
from tests.stations.miner.world import CHAT, DEADLINE_MS, World

from penstock.kit.handshake import (
    new_exchange,
    new_session_id,
    order_mac,
    receipt_mac,
    seals_mac,
    session_header,
    session_key,
    split_vouched,
)
from penstock.kit.ports import Sign, Verify
from penstock.kit.spell import read_receipt, spell, spell_digest
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.kit.wire.client import HttpClient, Reply
from penstock.spec.canon import canonical, digest_spelled, encode, to_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.params import LOCAL
from penstock.spec.receipts import (
    Countersign,
    Judgement,
    Outcome,
    Receipt,
    Record,
    check_receipt,
    judge,
)
from penstock.spec.seals import (
    seal_digest,
    seal_root,
    seal_signatures,
    sealed_verify,
)
from penstock.spec.sessions import OFFER_KIND, SessionOffer, check_session_answer

VERIFY = sealed_verify(toy_verify)
SESSION_MS = 600_000


@dataclass
class Vouched:
    """What came for one vouched order."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    order: Order
    key: bytes

    @property
    def text(self) -> bytes:
        """The vouched receipt as it came; b"" for none."""
        header = self.headers.get(b"x-penstock-receipt")
        if header is not None:
            return header
        events = EventSplitter().feed(self.body)
        parsed = parse_comment(events[-1]) if events else None
        return parsed[1] if parsed is not None and parsed[0] == "receipt" else b""

    @property
    def sent(self) -> bytes:
        """The bytes that the receipt speaks of."""
        if b"x-penstock-receipt" in self.headers:
            return self.body
        return b"".join(EventSplitter().feed(self.body)[:-1])

    @property
    def receipt(self) -> Receipt:
        """The receipt, its MAC and its digest of the bytes checked."""
        split = split_vouched(self.text)
        assert split is not None, self.text
        body, mac = split
        assert mac == receipt_mac(self.key, digest_spelled("receipt", body))
        receipt = read_receipt(body)
        assert receipt.response_digest == hashlib.sha256(self.sent).hexdigest()
        return receipt

    @property
    def error(self) -> str:
        code: str = msgspec.json.decode(self.body)["error"]["code"]
        return code


@dataclass
class Gate:
    """One process of a gateway, before the miner of that identity at that URL. `open` a session
    first. `make` makes its orders.
    """

    client: HttpClient
    make: Callable[..., Order]
    now_ms: Callable[[], int]
    key: Sign = GATEWAY
    miner: str = MINER.identity
    url: str = "http://miner:9000"
    verify: Verify = toy_verify
    session_id: str = ""
    session_key: bytes = b""
    rng: random.Random = field(default_factory=lambda: random.Random(21))

    @classmethod
    def of(cls, world: World, key: ToyKey = GATEWAY) -> "Gate":
        """A gateway of that key in this world."""
        rng = random.Random(key.name)
        return cls(world.client, world.order, lambda: world.market.now_ms, key, rng=rng)

    def offer(self, **changes: Any) -> tuple[SessionOffer, Any]:
        exchange = new_exchange(self.rng.randbytes)
        now_ms = self.now_ms()
        offer = SessionOffer(
            session_id=new_session_id(self.rng.randbytes),
            gateway=self.key.identity,
            miner=self.miner,
            exchange_key=exchange.public_hex,
            issued_ms=now_ms,
            expires_ms=now_ms + SESSION_MS,
        )
        return replace(offer, **changes), exchange

    async def open(self) -> None:
        """A session from now on."""
        offer, exchange = self.offer()
        signed = sign(OFFER_KIND, offer, self.key)
        reply = await self.post("/v1/sessions", encode(signed))
        assert reply.status == 200, reply.body
        answer = parse_signed(msgspec.json.decode(reply.body))
        offer_digest = signed_digest(signed)
        checked = check_session_answer(answer, offer, offer_digest=offer_digest, verify=self.verify)
        self.session_id = offer.session_id
        self.session_key = session_key(
            exchange,
            checked.exchange_key,
            offer_digest=offer_digest,
            answer_digest=signed_digest(answer),
        )

    def headers(self, order: Order, *, key: bytes = b"") -> tuple[tuple[str, str], ...]:
        mac = order_mac(key or self.session_key, spell_digest("order", order))
        return (
            ("x-penstock-order", spell(order).decode()),
            ("x-penstock-session", session_header(self.session_id, mac)),
        )

    def order(self, body: bytes, **changes: Any) -> Order:
        changes.setdefault("gateway", self.key.identity)
        return self.make(body, **changes)

    async def call(self, body: bytes, **changes: Any) -> Vouched:
        """Place a fair order (with changes) and read the whole answer."""
        order = self.order(body, **changes)
        return await self.place(order, body, headers=self.headers(order))

    async def place(
        self, order: Order, body: bytes, *, headers: tuple[tuple[str, str], ...]
    ) -> Vouched:
        reply = await self.post(CHAT, body, headers=headers)
        return Vouched(reply.status, dict(reply.headers), reply.body, order, self.session_key)

    async def post(
        self, path: str, body: bytes, *, headers: tuple[tuple[str, str], ...] = ()
    ) -> Reply:
        return await self.client.call(
            "POST", self.url + path, headers=headers, body=body, deadline_ms=DEADLINE_MS
        )

    # Seals.

    def order_seals(self, orders: Sequence[Order], *, key: Sign | None = None) -> dict[str, Any]:
        """The seal over these orders, as `/v1/seals` takes it."""
        digests = [spell_digest("order", one) for one in orders]
        return {
            "order_ids": [one.order_id for one in orders],
            "digests": [one.hex() for one in digests],
            "root_signature": (key or self.key).sign(seal_digest(seal_root(digests), len(digests))),
        }

    def seals_body(
        self, orders: Any, receipts: Sequence[str], *, changes: dict[str, Any] | None = None
    ) -> bytes:
        """A request for seals with its MAC, which `changes` do not mend."""
        rest = {"session_id": self.session_id, "orders": orders, "receipts": list(receipts)}
        mac = seals_mac(self.session_key, canonical(rest))
        return msgspec.json.encode({**rest, "mac": mac, **(changes or {})})

    async def seal(self, orders: Sequence[Order], receipts: Sequence[str] = ()) -> dict[str, Any]:
        """Seal these orders and ask for those receipts' seal."""
        seals = self.order_seals(orders) if orders else None
        reply = await self.post("/v1/seals", self.seals_body(seals, receipts))
        assert reply.status == 200, reply.body
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        return answer

    def records(
        self, answers: Sequence[Vouched], orders: Sequence[Order], given: dict[str, Any]
    ) -> list[Record]:
        """The records of these answers, all of whose orders and receipts are sealed."""
        seals = self.order_seals(orders)
        texts = seal_signatures(
            [bytes.fromhex(one) for one in seals["digests"]], seals["root_signature"]
        )
        order_seals = dict(zip(seals["order_ids"], texts, strict=True))
        by_id = {one.order.order_id: one for one in answers}
        leaves = [
            spell_digest("receipt", by_id[order_id].receipt)
            for order_id in given["receipts"]["order_ids"]
        ]
        texts = seal_signatures(leaves, given["receipts"]["root_signature"])
        receipt_seals = dict(zip(given["receipts"]["order_ids"], texts, strict=True))
        return [
            self._record(one, order_seals[order_id], receipt_seals[order_id])
            for order_id, one in by_id.items()
        ]

    def _record(self, answer: Vouched, order_seal: str, receipt_seal: str) -> Record:
        order, receipt = answer.order, answer.receipt
        signed_order = Signed("order", to_plain(order), order.gateway, order_seal)
        signed_receipt = Signed("receipt", to_plain(receipt), order.miner, receipt_seal)
        check_receipt(
            signed_receipt,
            order,
            order_digest=signed_digest(signed_order),
            verify=sealed_verify(self.verify),
        )
        countersign = Countersign(
            order_id=order.order_id,
            order_digest=signed_digest(signed_order),
            receipt_digest=signed_digest(signed_receipt),
            outcome=receipt.outcome,
            charge_nano=receipt.charge_nano,
            response_bytes=receipt.response_bytes,
            events=receipt.events,
            ttft_us=1_000,
            total_us=2_000,
            match=True,
        )
        return Record(
            order=signed_order,
            receipt=signed_receipt,
            checkpoint=None,
            countersign=sign("countersign", countersign, self.key),
        )


def judged(record: Record) -> Judgement:
    """The law's word on a record made of seals."""
    return judge(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=VERIFY)


def judged_claim(claim: dict[str, Any]) -> Judgement:
    """The law's word on a claim as the ledger got it."""
    record = Record(
        order=parse_signed(claim["order"]),
        receipt=parse_signed(claim["receipt"]),
        checkpoint=None,
        countersign=None,
    )
    found = judged(record)
    assert found.outcome is Outcome.GATEWAY_FAILED
    return found
