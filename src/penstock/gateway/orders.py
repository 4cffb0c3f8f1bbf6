"""Orders: what the gateway tells a miner to do, built for one instance.

Within a session an order goes out under a MAC and is signed a moment later with others (sealer.py);
without one it is signed by itself.
"""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

import msgspec

from penstock.gateway.bodies import SEED_MAX, Call
from penstock.gateway.forms import FALSE, TRUE, Form, quoted
from penstock.gateway.sessions import Session
from penstock.kit.handshake import session_header
from penstock.kit.ports import Clock, Entropy, Sign
from penstock.spec.canon import digest_spelled
from penstock.spec.keys import Signed
from penstock.spec.messages import Limits, Offer, Order
from penstock.spec.params import Params
from penstock.spec.pricing import charge_ceiling, prompt_units_max
from penstock.spec.sessions import SESSION_HEADER
from penstock.spec.stream import ORDER_HEADER
from penstock.spec.units import Price

TAG_HEX_CHARS = 32
TAGS_MAX = 65_536
FORMS_MAX = 8_192
ORDER_ID_CHARS = 32
NONCE_CHARS = 16
SEED_CHARS = 8
ORDER_CHARS = ORDER_ID_CHARS + NONCE_CHARS + SEED_CHARS
DRAWS = 256
"""Orders whose chance is asked for at once."""

_encode = msgspec.json.Encoder().encode
_read_order = msgspec.json.Decoder(Order).decode
_ORDER_LINE = ORDER_HEADER.encode() + b": "
_SESSION_LINE = b"\r\n" + SESSION_HEADER.encode() + b": "


@dataclass(slots=True)  # one per request: to freeze it would cost more than to reckon with it
class Ceilings:
    """The most one request may use, whoever serves it."""

    prompt_max: int
    completion_max: int
    images_max: int = 0
    audio_ms_max: int = 0
    _price: Price | None = field(default=None, init=False, compare=False)
    _charge_max: int = field(default=0, init=False, compare=False)

    def charge_max(self, price: Price) -> int:
        """nano-USD at this price; the last one is remembered."""
        if price is not self._price:
            self._price = price
            self._charge_max = charge_ceiling(
                price,
                prompt_max=self.prompt_max,
                completion_max=self.completion_max,
                images_max=self.images_max,
                audio_ms_max=self.audio_ms_max,
            )
        return self._charge_max


def ceilings(call: Call, limits: Limits) -> Ceilings:
    """Prompt by the body's bytes, completion by the client's limit or the chute's, times answers."""
    asked = limits.output_tokens_max if call.tokens_max is None else call.tokens_max
    return Ceilings(
        prompt_units_max(len(call.body)),
        min(asked, limits.output_tokens_max) * call.choices,
        call.images_max,
        call.audio_ms_max,
    )


class Placed(msgspec.Struct, eq=False):
    """An order on its way. `body` is its canonical JSON, `digest` the hex of `covered`, which is what
    a signature covers. `signature` is "" until the order is signed; then it goes with every record.
    """

    order_id: str
    body: bytes
    digest: str
    covered: bytes
    form: Form
    bounds: Ceilings
    payer_tag: str
    decision_digest: str = ""
    session: Session | None = None
    signature: str = ""
    is_void: bool = False
    """The miner never took it and nobody has a signature of it: it needs no end."""

    @property
    def order(self) -> Order:
        """The order itself, read from its bytes: only what is rare needs it."""
        return _read_order(self.body)

    def signed_json(self) -> bytes:
        """The signed order as JSON, for its record."""
        return word_json("order", self.body, signer=self.form.gateway, signature=self.signature)

    def proof(self) -> tuple[tuple[tuple[str, str], ...], bytes]:
        """(headers, body) that show a miner whose order this is: its MAC while there is a session."""
        session = self.session
        if session is None:
            return (), self.signed_json()
        words = session_header(session.session_id, session.macs.order(self.covered))
        return ((SESSION_HEADER, words),), self.body

    def head_lines(self) -> bytes:
        """The header lines that carry it, without the last line end."""
        session = self.session
        if session is not None:
            mac = session.macs.order(self.covered).encode()
            return b"".join((_ORDER_LINE, self.body, _SESSION_LINE, session.header, mac))
        return _ORDER_LINE + urlsafe_b64encode(self.signed_json()).rstrip(b"=")


@dataclass(slots=True, eq=False)
class Orders:
    """Places orders in the gateway's name."""

    clock: Clock
    sign: Sign
    entropy: Entropy
    params: Params
    tag_secret: bytes
    _forms: dict[str, tuple[Offer, Form]] = field(init=False, default_factory=dict)
    _chance: str = field(init=False, default="")
    _chance_at: int = field(init=False, default=0)

    def payer_tag(self, account: str, now_ms: int) -> str:
        """Tells one account's orders of one epoch together, to nobody who lacks the secret."""
        return _payer_tag(self.tag_secret, account, now_ms // self.params.epoch_ms)

    def form_of(self, offer: Offer) -> Form:
        """What is the same in all orders to this offer; remembered by its instance."""
        known = self._forms.get(offer.instance)
        if known is not None and known[0] is offer:
            return known[1]
        if len(self._forms) >= FORMS_MAX:
            self._forms.clear()
        form = Form(offer, self.sign.identity)
        self._forms[offer.instance] = offer, form
        return form

    def place(
        self,
        call: Call,
        offer: Offer,
        *,
        bounds: Ceilings,
        account: str,
        decision_digest: str = "",
        session: Session | None = None,
    ) -> Placed:
        """A fresh order for this instance at its offered price; signed at once without a session."""
        now_ms = self.clock.now_ms()
        form, payer_tag = self.form_of(offer), self.payer_tag(account, now_ms)
        chance = self._drawn()
        order_id = "o-" + chance[:ORDER_ID_CHARS]
        seed = call.seed
        if seed is None:
            seed = int(chance[-SEED_CHARS:], 16) & SEED_MAX
        body = form.order % (
            bounds.audio_ms_max,
            bounds.charge_max(offer.price),
            bounds.completion_max,
            now_ms + self.params.order_ttl_ms,
            decision_digest.encode(),
            bounds.images_max,
            now_ms,
            chance[ORDER_ID_CHARS:-SEED_CHARS].encode(),
            order_id.encode(),
            quoted(call.path),
            payer_tag.encode(),
            bounds.prompt_max,
            sha256(call.body).hexdigest().encode(),
            seed,
            TRUE if call.stream else FALSE,
        )
        covered = digest_spelled("order", body)
        digest = covered.hex()
        placed = Placed(
            order_id, body, digest, covered, form, bounds, payer_tag, decision_digest, session
        )
        if session is None:
            placed.signature = self.sign.sign(covered)
        return placed

    def _drawn(self) -> str:
        """Fresh random digits (hex) for one order; the system is asked once for many."""
        start = self._chance_at
        if start == len(self._chance):
            self._chance = self.entropy(DRAWS * (ORDER_CHARS // 2)).hex()
            start = 0
        self._chance_at = end = start + ORDER_CHARS
        return self._chance[start:end]

    def take_back(self, placed: Placed) -> bool:
        """As if it had not been placed. False when a signature of it is out in the world already."""
        placed.is_void = not placed.signature
        return placed.is_void


@lru_cache(maxsize=TAGS_MAX)
def _payer_tag(secret: bytes, account: str, epoch: int) -> str:
    mac = hmac.new(secret, f"{account}/{epoch}".encode(), sha256)
    return mac.hexdigest()[:TAG_HEX_CHARS]


def word_json(kind: str, body: bytes, *, signer: str, signature: str) -> bytes:
    """A signed message as JSON, from its canonical body."""
    tail = f',"kind":"{kind}","signature":"{signature}","signer":"{signer}"}}'
    return b'{"body":' + body + tail.encode()


def signed_json(signed: Signed) -> bytes:
    """A signed message on one line of JSON."""
    return _encode(signed)


def header_text(signed: Signed) -> str:
    """A signed message as a header's value: base64url JSON without padding."""
    return urlsafe_b64encode(signed_json(signed)).rstrip(b"=").decode("ascii")
