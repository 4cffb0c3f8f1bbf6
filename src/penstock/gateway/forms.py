"""Canonical spellings with blanks: orders, receipts and countersignatures, filled in instead of built.

What all orders to one offer have in common, and all receipts of it, is spelled once per offer; a request
fills in the rest. Filling in takes a tenth of the time of making a message and spelling it. Property
tests compare every form with the law's own spelling.
"""

from functools import lru_cache

from penstock.kit.spell import spell
from penstock.spec.canon import INT_MAX, canonical
from penstock.spec.messages import Offer
from penstock.spec.receipts import Outcome, Receipt
from penstock.spec.units import Price

QUOTED_MAX = 4_096

_ORDER = (
    b'{"audio_ms_max":%%d,"charge_max":%%d,"chute":%b,"completion_max":%%d,"deadline_ms":%%d,'
    b'"decision_digest":"%%b","gateway":%b,"images_max":%%d,"instance":%b,"issued_ms":%%d,"miner":%b,'
    b'"nonce":"%%b","order_id":"%%b","path":%%b,"payer_tag":"%%b","price":%b,"prompt_max":%%d,'
    b'"request_digest":"%%b","seed":%%d,"stream":%%b}'
)
_RECEIPT = (
    b'{"accept_ms":%%d,"charge_nano":%%d,"chute":%b,"events":%%d,"first_ms":%%d,"gateway":%b,'
    b'"instance":%b,"last_ms":%%d,"logprobs_digest":"%%b","miner":%b,"order_digest":"%%b",'
    b'"order_id":"%%b","outcome":"%%b","payer_tag":"%%b","response_bytes":%%d,'
    b'"response_digest":"%%b","seed":%%d,"token_ids_digest":"%%b","units":{"audio_ms":%%d,'
    b'"cached":%%d,"completion":%%d,"images":%%d,"prompt":%%d}}'
)
COUNTERSIGN = (
    b'{"charge_nano":%d,"events":%d,"match":%b,"order_digest":"%b","order_id":"%b","outcome":"%b",'
    b'"receipt_digest":"%b","response_bytes":%d,"total_us":%d,"ttft_us":%d}'
)
"""A countersignature; its texts are our own and need no escapes."""
RECORD = (
    b'{"order":{"body":%b,"kind":"order","signature":"%b","signer":%b},"receipt":%b,"checkpoint":%b,'
    b'"countersign":{"body":%b,"kind":"countersign","signature":"%b","signer":%b},"decision":%b}'
)
RECEIPT_WORD = b'{"body":%b,"kind":"receipt","signature":"%b","signer":%b}'
TRUE, FALSE = b"true", b"false"
_COMPLETE_TEXT = "complete"
_COMPLETE = _COMPLETE_TEXT.encode()


class Form:
    """What one offer's orders and receipts share. `order` is filled in by `Orders.place`."""

    __slots__ = ("_receipt", "chute", "gateway", "miner", "order", "price")

    def __init__(self, offer: Offer, gateway: str) -> None:
        self.chute = offer.chute
        self.gateway = gateway
        self.miner = offer.miner
        self.price: Price = offer.price
        chute, instance, miner = map(_constant, (offer.chute, offer.instance, offer.miner))
        named = _constant(gateway)
        self.order: bytes = _ORDER % (
            chute,
            named,
            instance,
            miner,
            spell(offer.price).replace(b"%", b"%%"),
        )
        self._receipt: bytes = _RECEIPT % (chute, named, instance, miner)

    def is_receipt(self, body: bytes, receipt: Receipt, of: tuple[bytes, bytes, bytes]) -> bool:
        """Does `body` spell `receipt` canonically, for this offer, and for the order whose digest, id and
        payer's tag are given? False may also mean that it takes a closer look to tell.
        """
        units, token_ids, logprobs = (
            receipt.units,
            receipt.token_ids_digest,
            receipt.logprobs_digest,
        )
        if (
            not -INT_MAX <= receipt.accept_ms <= receipt.first_ms <= receipt.last_ms <= INT_MAX
            or not -INT_MAX <= receipt.seed <= INT_MAX
            or not 0 <= receipt.response_bytes <= INT_MAX
            or not 0 <= receipt.events <= INT_MAX
            # Letters and digits alone need no escape.
            or not receipt.response_digest.isalnum()
            or not (not token_ids or token_ids.isalnum())
            or not (not logprobs or logprobs.isalnum())
        ):
            return False
        order_digest, order_id, payer_tag = of
        return body == self._receipt % (
            receipt.accept_ms,
            receipt.charge_nano,
            receipt.events,
            receipt.first_ms,
            receipt.last_ms,
            logprobs.encode(),
            order_digest,
            order_id,
            outcome_word(receipt.outcome),
            payer_tag,
            receipt.response_bytes,
            receipt.response_digest.encode(),
            receipt.seed,
            token_ids.encode(),
            units.audio_ms,
            units.cached,
            units.completion,
            units.images,
            units.prompt,
        )


def outcome_word(outcome: Outcome) -> bytes:
    """How an outcome is spelled. An Enum's value costs a call, and nearly all are complete."""
    return _COMPLETE if outcome is Outcome.COMPLETE else outcome.value.encode()


def outcome_text(outcome: Outcome) -> str:
    """The same as text."""
    return _COMPLETE_TEXT if outcome is Outcome.COMPLETE else outcome.value


@lru_cache(maxsize=QUOTED_MAX)
def quoted(text: str) -> bytes:
    """A text that stands in many messages, as canonical JSON."""
    return canonical(text)


def _constant(text: str) -> bytes:
    """The same within a form."""
    return canonical(text).replace(b"%", b"%%")
