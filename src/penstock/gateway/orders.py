"""Orders: what the gateway tells a miner to do, built for one instance and signed."""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from penstock.gateway.bodies import SEED_MAX, Call
from penstock.kit.ports import Clock, Entropy, Sign
from penstock.spec.keys import Signed, sign_and_digest
from penstock.spec.messages import Limits, Offer, Order
from penstock.spec.params import Params
from penstock.spec.pricing import charge_ceiling, prompt_units_max
from penstock.spec.units import Price

TAG_HEX_CHARS = 32
ORDER_ID_BYTES = 16
NONCE_BYTES = 8

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The most one request may use, whoever serves it."""

    prompt_max: int
    completion_max: int

    def charge_max(self, price: Price) -> int:
        """nano-USD at this price."""
        return charge_ceiling(price, prompt_max=self.prompt_max, completion_max=self.completion_max)


def ceilings(call: Call, limits: Limits) -> Ceilings:
    """Prompt by the body's bytes, completion by the client's limit or the chute's, times answers."""
    asked = limits.output_tokens_max if call.tokens_max is None else call.tokens_max
    return Ceilings(
        prompt_max=prompt_units_max(len(call.body)),
        completion_max=min(asked, limits.output_tokens_max) * call.choices,
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """An order, signed, in the forms it is needed in. `header` is base64url JSON, no padding."""

    order: Order
    signed: Signed
    digest: str
    header: str

    def proof(self) -> bytes:
        """The signed order as JSON, for `POST /v1/cancel/{order_id}`."""
        return signed_json(self.signed)


@dataclass(frozen=True, slots=True)
class Orders:
    """Places orders in the gateway's name."""

    clock: Clock
    sign: Sign
    entropy: Entropy
    params: Params
    tag_secret: bytes

    def payer_tag(self, account: str, now_ms: int) -> str:
        """Tells one account's orders of one epoch together, to nobody who lacks the secret."""
        epoch = now_ms // self.params.epoch_ms
        mac = hmac.new(self.tag_secret, f"{account}/{epoch}".encode(), sha256)
        return mac.hexdigest()[:TAG_HEX_CHARS]

    def place(self, call: Call, offer: Offer, *, bounds: Ceilings, account: str) -> Placed:
        """A fresh order for this instance at its offered price."""
        now_ms = self.clock.now_ms()
        chance = self.entropy(ORDER_ID_BYTES + NONCE_BYTES + 4)
        seed = int.from_bytes(chance[-4:], "big") & SEED_MAX if call.seed is None else call.seed
        order = Order(
            order_id="o-" + chance[:ORDER_ID_BYTES].hex(),
            gateway=self.sign.identity,
            miner=offer.miner,
            instance=offer.instance,
            chute=offer.chute,
            payer_tag=self.payer_tag(account, now_ms),
            path=call.path,
            stream=call.stream,
            request_digest=sha256(call.body).hexdigest(),
            price=offer.price,
            prompt_max=bounds.prompt_max,
            completion_max=bounds.completion_max,
            charge_max=bounds.charge_max(offer.price),
            issued_ms=now_ms,
            deadline_ms=now_ms + self.params.order_ttl_ms,
            seed=seed,
            nonce=chance[ORDER_ID_BYTES:-4].hex(),
        )
        signed, digest = sign_and_digest("order", order, self.sign)
        return Placed(order=order, signed=signed, digest=digest, header=header_text(signed))


def signed_json(signed: Signed) -> bytes:
    """A signed message on one line of JSON."""
    return _encode(signed)


def header_text(signed: Signed) -> str:
    """A signed message as a header's value: base64url JSON without padding."""
    return urlsafe_b64encode(signed_json(signed)).rstrip(b"=").decode("ascii")
