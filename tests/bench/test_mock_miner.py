"""The bench's upstream is a Penstock miner to whoever speaks as a gateway: sessions, MACs, seals."""

import hashlib
import http.client
import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bench.gateway.cast import GATEWAY, MINER, PRICE
from bench.gateway.processes import cores
from bench.gateway.upstream import upstream
from tests.makers import make_order

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
from penstock.kit.keys import verify
from penstock.kit.spell import read_receipt, spell, spell_digest
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.spec.canon import canonical, to_plain
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import Receipt, check_account, check_receipt
from penstock.spec.seals import seal_digest, seal_root, seal_signatures
from penstock.spec.sessions import (
    OFFER_KIND,
    SESSION_HEADER,
    SessionOffer,
    check_session_answer,
)
from penstock.spec.stream import ORDER_HEADER, RECEIPT_HEADER, check_checkpoint

HOUR_MS = 3_600_000
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Reply:
    """An answer, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """A gateway in a few lines: it knows the mock's port and, after `agree`, a session."""

    port: int
    session_id: str = ""
    key: bytes = b""

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Reply:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            link.request("POST" if body else "GET", path, body=body, headers=headers or {})
            reply = link.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            link.close()

    def agree(self) -> None:
        """A session, as kit/handshake.py has it."""
        now_ms = int(time.time() * 1000)
        exchange = new_exchange(os.urandom)
        offer = SessionOffer(
            session_id=new_session_id(os.urandom),
            gateway=GATEWAY.identity,
            miner=MINER.identity,
            exchange_key=exchange.public_hex,
            issued_ms=now_ms,
            expires_ms=now_ms + HOUR_MS,
        )
        signed = sign(OFFER_KIND, offer, GATEWAY)
        reply = self.post("/v1/sessions", canonical(to_plain(signed)))
        assert reply.status == 200
        said = parse_signed(reply.json)
        answer = check_session_answer(
            said, offer, offer_digest=signed_digest(signed), verify=verify
        )
        self.session_id = offer.session_id
        self.key = session_key(
            exchange,
            answer.exchange_key,
            offer_digest=signed_digest(signed),
            answer_digest=signed_digest(said),
        )

    def order(self, body: bytes) -> Order:
        return make_order(
            order_id="o-" + os.urandom(16).hex(),
            gateway=GATEWAY.identity,
            miner=MINER.identity,
            price=PRICE,
            charge_max=10**9,
            request_digest=hashlib.sha256(body).hexdigest(),
            completion_max=1000,
        )

    def ask(self, order: Order, body: bytes, *, mac: str = "") -> Reply:
        """Under the session."""
        said = mac or order_mac(self.key, spell_digest("order", order))
        headers = {
            ORDER_HEADER: spell(order).decode(),
            SESSION_HEADER: session_header(self.session_id, said),
        }
        return self.post(CHAT, body, headers)

    def seal(self, orders: list[Order], receipts: list[str], *, key: bytes = b"") -> Reply:
        """Ask for seals, as the gateway's sealer does."""
        digests = [spell_digest("order", one) for one in orders]
        root = seal_digest(seal_root(digests), len(digests))
        rest = {
            "orders": {
                "digests": [one.hex() for one in digests],
                "order_ids": [one.order_id for one in orders],
                "root_signature": GATEWAY.sign(root),
            },
            "receipts": receipts,
            "session_id": self.session_id,
        }
        mac = seals_mac(key or self.key, canonical(rest))
        return self.post("/v1/seals", canonical({**rest, "mac": mac}))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with upstream(tmp_path, cores(), is_miner=True) as (port, _):
        yield Gateway(port)


def chat(*, chunks: int = 0) -> bytes:
    text = f"bench:{chunks}:0; Hi" if chunks else "Hi"
    message = {"role": "user", "content": text}
    body = {"model": "bench", "messages": [message], "stream": bool(chunks)}
    return json.dumps(body, separators=(",", ":")).encode()


def opened(gateway: Gateway, order: Order, payload: bytes) -> Receipt:
    """A vouched receipt, checked as the gateway checks it."""
    vouched = split_vouched(payload)
    assert vouched is not None
    receipt = read_receipt(vouched[0])
    check_account(receipt, order, order_digest=spell_digest("order", order).hex())
    assert vouched[1] == receipt_mac(gateway.key, spell_digest("receipt", receipt))
    return receipt


def words(raw: bytes) -> list[tuple[str, bytes]]:
    """Our comments in a stream, in order."""
    return [word for event in EventSplitter().feed(raw) if (word := parse_comment(event))]


def test_a_whole_answer_under_a_session_is_vouched_for(gateway: Gateway) -> None:
    gateway.agree()
    order = gateway.order(chat())
    reply = gateway.ask(order, chat())
    assert reply.status == 200
    receipt = opened(gateway, order, (reply.headers[RECEIPT_HEADER] or "").encode())
    assert receipt.response_digest == hashlib.sha256(reply.body).hexdigest()
    assert receipt.charge_nano > 0


def test_a_stream_ends_in_a_receipt_over_all_that_came_before(gateway: Gateway) -> None:
    gateway.agree()
    body = chat(chunks=200)
    order = gateway.order(body)
    reply = gateway.ask(order, body)
    said = words(reply.body)
    assert [name for name, _ in said] == ["checkpoint"] * 3 + ["receipt"]
    receipt = opened(gateway, order, said[-1][1])
    answer, _, _ = reply.body.partition(b": penstock-receipt")
    assert receipt.response_digest == hashlib.sha256(answer).hexdigest()
    assert receipt.response_bytes == len(answer)
    assert receipt.events == 202
    assert receipt.units.completion == 200
    for number, (_, payload) in enumerate(said[:-1], start=1):
        before = reply.body.split(b": penstock-checkpoint ")
        prefix = b": penstock-checkpoint ".join(before[:number])
        point = check_checkpoint(
            parse_signed(json.loads(payload)),
            order,
            order_digest=receipt.order_digest,
            verify=verify,
        )
        assert point.digest == hashlib.sha256(prefix).hexdigest()
        assert (point.body_bytes, point.events) == (len(prefix), 64 * number)


def test_an_order_signed_by_itself_gets_a_signed_receipt(gateway: Gateway) -> None:
    for body in (chat(), chat(chunks=3)):
        order = gateway.order(body)
        signed = sign("order", order, GATEWAY)
        header = urlsafe_b64encode(canonical(to_plain(signed))).rstrip(b"=").decode()
        reply = gateway.post(CHAT, body, {ORDER_HEADER: header})
        value = reply.headers[RECEIPT_HEADER]
        payload = urlsafe_b64decode(value + "==") if value else words(reply.body)[-1][1]
        said = parse_signed(json.loads(payload))
        receipt = check_receipt(said, order, order_digest=signed_digest(signed), verify=verify)
        answer = reply.body.partition(b": penstock-receipt")[0]
        assert receipt.response_digest == hashlib.sha256(answer).hexdigest()


def test_a_forged_mac_another_body_and_an_unknown_session_are_refused(gateway: Gateway) -> None:
    gateway.agree()
    order = gateway.order(chat())
    forged = gateway.ask(order, chat(), mac="0" * 64)
    other = gateway.ask(order, chat() + b" ")
    gateway.session_id = "s-" + "0" * 32
    unknown = gateway.ask(order, chat())
    told = [(one.status, one.json["error"]["code"]) for one in (forged, other, unknown)]
    assert told == [(401, "bad_mac"), (400, "another_body"), (401, "session_unknown")]
    assert gateway.post("/bench/counts", b"").json["refused"] == 3


def test_receipts_are_sealed_once_their_orders_are(gateway: Gateway) -> None:
    gateway.agree()
    placed, receipts = [], []
    for _ in range(5):
        order = gateway.order(chat())
        reply = gateway.ask(order, chat())
        placed.append(order)
        receipts.append(opened(gateway, order, (reply.headers[RECEIPT_HEADER] or "").encode()))
    assert gateway.post("/bench/counts", b"").json["unsealed"] == 5
    ids = [one.order_id for one in placed]
    told = gateway.seal(placed, [*ids, "o-" + "0" * 32]).json
    assert (told["orders_known"], told["unknown"]) == (5, ["o-" + "0" * 32])
    assert told["receipts"]["order_ids"] == ids
    digests = [spell_digest("receipt", one) for one in receipts]
    signatures = seal_signatures(digests, told["receipts"]["root_signature"])
    for order, receipt, signature in zip(placed, receipts, signatures, strict=True):
        signed = Signed("receipt", to_plain(receipt), MINER.identity, signature)
        digest = spell_digest("order", order).hex()
        assert check_receipt(signed, order, order_digest=digest, verify=verify) == receipt
    assert gateway.post("/bench/counts", b"").json["unsealed"] == 0


def test_seals_with_a_wrong_mac_or_signature_are_refused(gateway: Gateway) -> None:
    gateway.agree()
    order = gateway.order(chat())
    gateway.ask(order, chat())
    assert gateway.seal([order], [order.order_id], key=bytes(32)).status == 400
    stranger = replace(order, gateway=MINER.identity)
    digests = [spell_digest("order", stranger)]
    rest = {
        "orders": {
            "digests": [digests[0].hex()],
            "order_ids": [order.order_id],
            "root_signature": MINER.sign(seal_digest(seal_root(digests), 1)),
        },
        "receipts": [],
        "session_id": gateway.session_id,
    }
    body = canonical({**rest, "mac": seals_mac(gateway.key, canonical(rest))})
    assert gateway.post("/v1/seals", body).status == 400
