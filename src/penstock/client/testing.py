"""A gateway in memory for users' own tests: real signatures, no network, no market.

    market = FakeMarket({"tiny-chat": "Hello there"})
    client = penstock.Client("http://fake", "any-key", transport=market)
    assert client.chat("tiny-chat", "Hi").text == "Hello there"

Answers are signed by real ed25519 keys, so the client's checks run as against a real gateway;
`tamper=True` changes a byte after signing, to see that your code handles BadAnswer.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from penstock.kit.handshake import receipt_mac, vouch
from penstock.kit.keys import Ed25519Key
from penstock.kit.sse import comment
from penstock.spec.canon import canonical, encode, to_plain
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.pricing import charge_ceiling
from penstock.spec.receipts import Countersign, Outcome, Receipt, Record, charge_for
from penstock.spec.seals import seal_digest, seal_root, seal_signatures
from penstock.spec.stream import COUNTERSIGN_COMMENT, RECEIPT_COMMENT
from penstock.spec.units import Price, Units

PRICE = Price(
    request=0, prompt=50_000_000, cached=10_000_000, completion=200_000_000, images=0, audio_ms=0
)
PROMPT_MAX = 1 << 20
COMPLETION_MAX = 4096
RECEIPTS_PATH = "/v1/receipts/"
RECEIPTS_MAX = 10_000
SESSION_KEY = bytes(32)
"""Nobody checks a fake MAC: only a gateway could."""
DIMENSIONS = 8


@dataclass
class FakeReply:
    """Implements what the client reads of a reply."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    chunk_bytes: int = 64

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")

    async def chunks(self, *, idle_deadline_ms: int) -> AsyncIterator[bytes]:
        assert idle_deadline_ms > 0, "a real reply would need a deadline"
        for start in range(0, len(self.body), self.chunk_bytes):
            yield self.body[start : start + self.chunk_bytes]

    async def read(self, *, bytes_max: int, idle_deadline_ms: int) -> bytes:
        parts = [part async for part in self.chunks(idle_deadline_ms=idle_deadline_ms)]
        body = b"".join(parts)
        assert len(body) <= bytes_max, "a fake answer is small"
        return body


@dataclass
class FakeMarket:
    """`answers`: model -> the text it always answers. Unknown models get 404 like the real one."""

    answers: Mapping[str, str]
    tamper: bool = False
    seals: bool = True
    """As real stations do it: the words under a stream come without signatures, whole answers
    without words, and the record has its signatures in batches. Otherwise each word is signed.
    """
    gateway: Ed25519Key = field(default_factory=lambda: Ed25519Key(b"\1" * 32))
    miner: Ed25519Key = field(default_factory=lambda: Ed25519Key(b"\2" * 32))
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """(method, path, decoded body) of everything that was asked, but for receipts."""
    receipts: dict[str, Record] = field(default_factory=dict)

    async def close(self) -> None:
        """Nothing to close."""

    @asynccontextmanager
    async def open_stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        head_deadline_ms: int,
    ) -> AsyncIterator[FakeReply]:
        assert head_deadline_ms > 0, "a real call would need a deadline"
        assert any(name == "authorization" for name, _ in headers), "the client signs in"
        path = "/" + url.split("//", 1)[1].split("/", 1)[1]
        asked = msgspec.json.decode(body) if body else None
        if not path.startswith(RECEIPTS_PATH):
            self.requests.append((method, path, asked))
        yield self._answer(path, asked, body)

    def _answer(self, path: str, asked: Any, body: bytes) -> FakeReply:
        if path == "/v1/models":
            return _json(200, {"object": "list", "data": [{"id": name} for name in self.answers]})
        if path.startswith(RECEIPTS_PATH):
            return self._receipt(path.rsplit("/", 1)[1])
        model = str(asked.get("model")) if isinstance(asked, dict) else ""
        if model not in self.answers:
            return _error(404, "model_not_found", f"no model {model!r}")
        if path == "/v1/embeddings":
            return self._whole(path, body, _embeddings(model, asked))
        if asked.get("stream"):
            return self._stream(path, body, model)
        return self._whole(path, body, _chat(model, self.answers[model]))

    def _receipt(self, order_id: str) -> FakeReply:
        record = self.receipts.get(order_id)
        if record is None:
            return _error(404, "not_found", f"no receipt {order_id}")
        return _json(200, {"record": to_plain(record)})

    def _whole(self, path: str, request: bytes, value: dict[str, Any]) -> FakeReply:
        body = msgspec.json.encode(value)
        record = self._sign(path, request, body, stream=False)
        headers = {"x-penstock-order": record.order.body["order_id"]}
        if not self.seals:
            headers["x-penstock-receipt"] = _header(record.receipt)
            headers["x-penstock-countersign"] = _header(record.countersign)
        return FakeReply(200, self._maybe_tampered(body), headers)

    def _stream(self, path: str, request: bytes, model: str) -> FakeReply:
        words = self.answers[model].split(" ")
        pieces = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
        body = b"".join(
            b"data: " + msgspec.json.encode({"choices": [{"delta": {"content": piece}}]}) + b"\n\n"
            for piece in pieces
        )
        body += b"data: [DONE]\n\n"
        record = self._sign(path, request, body, stream=True)
        assert record.receipt is not None, "_sign always makes one"
        assert record.countersign is not None, "_sign always makes one"
        tail = comment(RECEIPT_COMMENT, self._told(record.receipt, is_vouched=True))
        tail += comment(COUNTERSIGN_COMMENT, self._told(record.countersign))
        headers = {"x-penstock-order": record.order.body["order_id"]}
        return FakeReply(200, self._maybe_tampered(body) + tail, headers)

    def _told(self, signed: Signed, *, is_vouched: bool = False) -> bytes:
        """The word as a stream tells it."""
        if not self.seals:
            return encode(signed)
        covered = bytes.fromhex(signed_digest(signed))
        if is_vouched:
            return vouch(canonical(signed.body), receipt_mac(SESSION_KEY, covered))
        return canonical({"body": signed.body})

    def _maybe_tampered(self, body: bytes) -> bytes:
        return body.replace(b'"content":"', b'"content":"!', 1) if self.tamper else body

    def _sign(self, path: str, request: bytes, body: bytes, *, stream: bool) -> Record:
        """A record that `spec.receipts.judge` accepts. Completion units are words."""
        order = self._order(path, request, stream=stream)
        signed_order = sign("order", order, self.gateway)
        units = Units(
            prompt=len(request.split()),
            cached=0,
            completion=min(max(1, body.count(b'"content"')), COMPLETION_MAX),
            images=0,
            audio_ms=0,
        )
        receipt = sign(
            "receipt",
            Receipt(
                order_id=order.order_id,
                order_digest=signed_digest(signed_order),
                chute=order.chute,
                instance=order.instance,
                miner=order.miner,
                gateway=order.gateway,
                payer_tag=order.payer_tag,
                outcome=Outcome.COMPLETE,
                units=units,
                charge_nano=charge_for(order, units),
                response_digest=hashlib.sha256(body).hexdigest(),
                response_bytes=len(body),
                events=units.completion,
                accept_ms=1,
                first_ms=2,
                last_ms=3,
                seed=0,
                token_ids_digest="",
                logprobs_digest="",
            ),
            self.miner,
        )
        seen = _countersign(order, signed_order, receipt, body_bytes=len(body))
        countersign = sign("countersign", seen, self.gateway)
        if self.seals:
            signed_order, countersign = _sealed(self.gateway, signed_order, countersign)
            (receipt,) = _sealed(self.miner, receipt)
        record = Record(signed_order, receipt, None, countersign)
        assert len(self.receipts) < RECEIPTS_MAX, "a fake market is for short tests"
        self.receipts[order.order_id] = record
        return record

    def _order(self, path: str, request: bytes, *, stream: bool) -> Order:
        return Order(
            order_id=f"o-{len(self.receipts):032x}",
            gateway=self.gateway.identity,
            miner=self.miner.identity,
            instance="fake-1",
            chute="sha256:" + "0" * 64,
            payer_tag="you",
            path=path,
            stream=stream,
            request_digest=hashlib.sha256(request).hexdigest(),
            price=PRICE,
            prompt_max=PROMPT_MAX,
            completion_max=COMPLETION_MAX,
            images_max=0,
            audio_ms_max=0,
            charge_max=charge_ceiling(PRICE, prompt_max=PROMPT_MAX, completion_max=COMPLETION_MAX),
            issued_ms=0,
            deadline_ms=1_000,
            seed=0,
            nonce="fake",
            decision_digest="",
        )


def _sealed(key: Ed25519Key, *words: Signed) -> tuple[Signed, ...]:
    """The same words under one signature for all of them."""
    digests = [bytes.fromhex(signed_digest(word)) for word in words]
    root_signature = key.sign(seal_digest(seal_root(digests), len(digests)))
    signatures = seal_signatures(digests, root_signature)
    return tuple(
        replace(word, signature=signature)
        for word, signature in zip(words, signatures, strict=True)
    )


def _countersign(order: Order, signed: Signed, receipt: Signed, *, body_bytes: int) -> Countersign:
    return Countersign(
        order_id=order.order_id,
        order_digest=signed_digest(signed),
        receipt_digest=signed_digest(receipt),
        outcome=Outcome.COMPLETE,
        charge_nano=receipt.body["charge_nano"],
        response_bytes=body_bytes,
        events=receipt.body["events"],
        ttft_us=1_000,
        total_us=2_000,
        match=True,
    )


def _chat(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": model, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def _embeddings(model: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Small vectors that are the same for the same text."""
    data = [
        {"index": index, "embedding": [byte / 255 for byte in _text_digest(text)[:DIMENSIONS]]}
        for index, text in enumerate(asked["input"])
    ]
    return {"object": "list", "model": model, "data": data}


def _text_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _header(signed: Signed | None) -> str:
    assert signed is not None, "only signed answers have headers"
    return urlsafe_b64encode(encode(signed)).decode().rstrip("=")


def _json(status: int, value: object) -> FakeReply:
    return FakeReply(status, msgspec.json.encode(value), {"content-type": "application/json"})


def _error(status: int, code: str, message: str) -> FakeReply:
    return _json(status, {"error": {"code": code, "message": message}})
