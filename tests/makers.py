"""Makers of signed messages for tests, with a toy key that signs by SHA-256."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Protocol

from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import Limits, Manifest, Modality, Offer, Order, Tier, chute_id
from penstock.spec.pricing import charge_ceiling
from penstock.spec.receipts import (
    Countersign,
    Outcome,
    Receipt,
    Record,
    charge_for,
    decision_digest,
)
from penstock.spec.routing import Considered, Decision
from penstock.spec.seals import seal_digest, seal_root, seal_signatures, sealed_verify
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Price, Units

PRICE = Price(
    request=0, prompt=50_000_000, cached=10_000_000, completion=200_000_000, images=0, audio_ms=0
)


@dataclass(frozen=True)
class ToyKey:
    """Implements the Sign port with the simulator's scheme."""

    name: str

    @property
    def identity(self) -> str:
        return "toy:" + hashlib.sha256(self.name.encode()).hexdigest()[:16]

    def sign(self, digest: bytes) -> str:
        return toy_signature(self.identity, digest)


def toy_signature(identity: str, digest: bytes) -> str:
    return hashlib.sha256(identity.encode() + digest).hexdigest()


def toy_verify_single(identity: str, digest: bytes, signature: str) -> bool:
    return identity.startswith("toy:") and signature == toy_signature(identity, digest)


toy_verify = sealed_verify(toy_verify_single)
"""Seals are accepted wherever signatures are, as in every real verifier."""


class Key(Protocol):
    """ToyKey or a real one."""

    @property
    def identity(self) -> str: ...
    def sign(self, digest: bytes) -> str: ...


def seal(key: Key, *words: Signed, strangers: int = 0) -> tuple[Signed, ...]:
    """These words under one seal of their signer, among so many other messages before them."""
    assert all(word.signer == key.identity for word in words)
    others = [hashlib.sha256(bytes([number])).digest() for number in range(strangers)]
    digests = others + [bytes.fromhex(signed_digest(word)) for word in words]
    root_signature = key.sign(seal_digest(seal_root(digests), len(digests)))
    signatures = seal_signatures(digests, root_signature)[strangers:]
    return tuple(replace(word, signature=one) for word, one in zip(words, signatures, strict=True))


def sealed(record: Record, *, gateway: Key, miner: Key, strangers: int = 0) -> Record:
    """The same record, its order, receipt and countersignature under seals."""

    def again(word: Signed | None, key: Key) -> Signed | None:
        return None if word is None else seal(key, word, strangers=strangers)[0]

    (order,) = seal(gateway, record.order, strangers=strangers)
    return replace(
        record,
        order=order,
        receipt=again(record.receipt, miner),
        countersign=again(record.countersign, gateway),
    )


GATEWAY, MINER, OWNER = ToyKey("gateway"), ToyKey("miner"), ToyKey("owner")

MANIFEST = Manifest(
    name="tiny-chat",
    owner=OWNER.identity,
    modality=Modality.CHAT,
    engine="echo",
    source="builtin:echo",
    model_digest="",
    limits=Limits(context_tokens_max=1024, output_tokens_max=256, parallel_max=4),
    price_max=PRICE,
    hardware="cpu",
    instances_min=1,
    instances_max=8,
)


def make_offer(**changes: Any) -> Signed:
    offer = Offer(
        instance="miner-1",
        miner=MINER.identity,
        chute=chute_id(MANIFEST),
        endpoint="http://127.0.0.1:1",
        price=PRICE,
        room=4,
        hardware="cpu",
        device="d1",
        tier=Tier.OPEN,
        issued_ms=1_000,
        valid_until_ms=5_000,
        seq=1,
    )
    return sign("offer", replace(offer, **changes), MINER)


def make_order(**changes: Any) -> Order:
    order = Order(
        order_id="o-1",
        gateway=GATEWAY.identity,
        miner=MINER.identity,
        instance="miner-1",
        chute=chute_id(MANIFEST),
        payer_tag="p",
        path="/v1/chat/completions",
        stream=True,
        request_digest=hashlib.sha256(b"{}").hexdigest(),
        price=PRICE,
        prompt_max=100,
        completion_max=50,
        images_max=0,
        audio_ms_max=0,
        charge_max=charge_ceiling(PRICE, prompt_max=100, completion_max=50),
        issued_ms=1_000,
        deadline_ms=61_000,
        seed=7,
        nonce="n",
        decision_digest="",
    )
    return replace(order, **changes)


def make_decision(**changes: Any) -> Decision:
    """A decision of the routing policy between two instances."""
    decision = Decision(
        policy="v1",
        seed=7,
        present=2,
        considered=(
            Considered(instance="miner-1", reason="", merit=5, cached_ppm=250_000),
            Considered(instance="miner-2", reason="no_room", merit=0, cached_ppm=0),
        ),
        choice="miner-1",
    )
    return replace(decision, **changes)


def make_receipt(order: Order, **changes: Any) -> Receipt:
    """A complete receipt for 20 prompt and 10 completion units; charge follows the units."""
    units = changes.pop("units", Units(prompt=20, cached=0, completion=10, images=0, audio_ms=0))
    outcome = changes.get("outcome", Outcome.COMPLETE)
    free = outcome in {Outcome.MINER_FAILED, Outcome.REFUSED}
    receipt = Receipt(
        order_id=order.order_id,
        order_digest=signed_digest(sign("order", order, GATEWAY)),
        chute=order.chute,
        instance=order.instance,
        miner=order.miner,
        gateway=order.gateway,
        payer_tag=order.payer_tag,
        outcome=outcome,
        units=NO_UNITS if free else units,
        charge_nano=0 if free else charge_for(order, units),
        response_digest=hashlib.sha256(b"answer").hexdigest(),
        response_bytes=6,
        events=11,
        accept_ms=1_001,
        first_ms=1_010,
        last_ms=1_100,
        seed=order.seed,
        token_ids_digest="",
        logprobs_digest="",
    )
    return replace(receipt, **changes)


def make_checkpoint(order: Order, **changes: Any) -> Checkpoint:
    checkpoint = Checkpoint(
        order_id=order.order_id,
        order_digest=signed_digest(sign("order", order, GATEWAY)),
        events=4,
        body_bytes=3,
        units=Units(prompt=20, cached=0, completion=4, images=0, audio_ms=0),
        digest=hashlib.sha256(b"ans").hexdigest(),
    )
    return replace(checkpoint, **changes)


def make_countersign(order: Order, receipt: Signed | None, **changes: Any) -> Countersign:
    """What an honest gateway says of this receipt (or of a miner that left none)."""
    complete = receipt is not None
    countersign = Countersign(
        order_id=order.order_id,
        order_digest=signed_digest(sign("order", order, GATEWAY)),
        receipt_digest=signed_digest(receipt) if receipt else "",
        outcome=Outcome.COMPLETE if complete else Outcome.MINER_FAILED,
        charge_nano=receipt.body["charge_nano"] if receipt else 0,
        response_bytes=6,
        events=11,
        ttft_us=9_000,
        total_us=100_000,
        match=complete,
    )
    return replace(countersign, **changes)


def make_record(order: Order | None = None, **changes: Any) -> Record:
    """A complete, honest record. `changes` go to the countersignature."""
    order = order or make_order()
    receipt = sign("receipt", make_receipt(order), MINER)
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", make_countersign(order, receipt, **changes), GATEWAY),
    )


def decided(record: Record, decision: Decision, *, gateway: Key, miner: Key) -> Record:
    """The same record, with an order that names this decision, signed anew by both."""
    order = {**record.order.body, "decision_digest": decision_digest(decision)}
    signed = sign("order", order, gateway)
    named = {"order_digest": signed_digest(signed)}
    receipt, countersign = record.receipt, record.countersign
    if receipt is not None:
        receipt = sign("receipt", {**receipt.body, **named}, miner)
    assert countersign is not None
    seen = {"receipt_digest": "" if receipt is None else signed_digest(receipt)}
    return Record(
        order=signed,
        receipt=receipt,
        checkpoint=None,
        countersign=sign("countersign", {**countersign.body, **named, **seen}, gateway),
        decision=decision,
    )
