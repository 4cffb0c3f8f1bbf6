"""Which orders are served: the checks of `docs/interfaces.md`, cheapest first where order allows.

An order that is not from a chartered gateway, not for us, or not for these bytes gets no receipt: we
never took it. Want of room is no failure of the order; it is told apart by `Admitted.has_room`.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from penstock.miner.charter import Trust
from penstock.miner.errors import OrderRefused
from penstock.miner.instance import Instance
from penstock.miner.replay import ReplayGuard
from penstock.miner.timing import MarketTime
from penstock.spec.errors import Expired, SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed, signed_digest
from penstock.spec.messages import Order, check_order
from penstock.spec.params import Params
from penstock.spec.pricing import charge_ceiling

HEADER_CHARS_MAX = 16_384
"""An order is about 1 KiB of JSON; a header beyond this is refused before it is decoded."""

FindInstance = Callable[[str], Instance | None]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An order that is valid for this miner and was not seen before."""

    order: Order
    signed: Signed
    digest: str
    instance: Instance


@dataclass(slots=True)
class Admission:
    """Checks orders for one miner."""

    miner: str
    time: MarketTime
    trust: Trust
    replay: ReplayGuard
    find: FindInstance
    params: Params

    def admit(self, header: str, *, path: str, body: bytes) -> Admitted:
        """The order in `x-penstock-order`, if it may be served now. Raises OrderRefused.

        The order is remembered: the same one again is refused with `order_replayed`.
        """
        now_ms = self.time.now_ms()
        signed = parse_header(header)
        order = self._checked(signed, sha256(body).hexdigest(), now_ms=now_ms)
        if order.path != path:
            raise OrderRefused(400, "bad_order", f"The order is for {order.path}, not for {path}.")
        instance = self._instance(order)
        self._check_pay(order, instance, now_ms=now_ms)
        if self._is_old(order) or self.replay.has_seen(order.order_id):
            raise OrderRefused(409, "order_replayed", "This order was served before.")
        if self.replay.is_full(now_ms=now_ms):
            raise OrderRefused(503, "no_capacity", "Too many orders are remembered at once.")
        self.replay.remember(order.order_id, deadline_ms=order.deadline_ms, now_ms=now_ms)
        return Admitted(order=order, signed=signed, digest=signed_digest(signed), instance=instance)

    def proof(self, body: bytes) -> Order:
        """The order that a cancel shows as its proof. Raises OrderRefused.

        Only its signature counts: it may be late, and the body it was for is not here any more.
        """
        signed = parse_order(body)
        try:
            order = open_signed(Order, signed, kind="order", verify=self.trust.verify)
        except SpecError as error:
            raise OrderRefused(400, "bad_order", f"The order does not hold: {error}.") from error
        if signed.signer != order.gateway or order.miner != self.miner:
            raise OrderRefused(403, "bad_order", "The order is not of its gateway, or not for us.")
        return order

    def _is_old(self, order: Order) -> bool:
        """Was it issued before this process could serve any? A former life may have served it."""
        return order.issued_ms < self.time.first_ms - self.params.clock_skew_max_ms

    def _checked(self, signed: Signed, body_digest: str, *, now_ms: int) -> Order:
        """Its gateway signed it for this miner and these bytes, and it has not expired."""
        if not self.trust.is_gateway(signed.signer, now_ms=now_ms):
            raise OrderRefused(
                403, "gateway_unknown", "The order's signer is no gateway of this market's charter."
            )
        try:
            order = check_order(
                signed, body_digest=body_digest, now_ms=now_ms, verify=self.trust.verify
            )
        except Expired as error:
            raise OrderRefused(
                400,
                "order_expired",
                f"The order ended {error.now_ms - error.at_ms} ms ago by the market's clock.",
            ) from error
        except SpecError as error:
            raise OrderRefused(400, "bad_order", f"The order does not hold: {error}.") from error
        lifetime_max = self.params.order_ttl_ms + self.params.clock_skew_max_ms
        if order.deadline_ms > now_ms + lifetime_max:
            raise OrderRefused(400, "bad_order", "The order's deadline is too far away.")
        return order

    def _instance(self, order: Order) -> Instance:
        instance = self.find(order.instance)
        if order.miner != self.miner or instance is None or instance.chute != order.chute:
            raise OrderRefused(
                404, "instance_unknown", "The order names another miner, instance or chute."
            )
        return instance

    def _check_pay(self, order: Order, instance: Instance, *, now_ms: int) -> None:
        """The price is one that was asked, and the ceiling leaves room for all that may be used."""
        due = charge_ceiling(
            order.price, prompt_max=order.prompt_max, completion_max=order.completion_max
        )
        if not instance.has_offered(order.price, now_ms=now_ms) or order.charge_max < due:
            raise OrderRefused(
                409, "order_underpaid", "The order pays less than this instance's offers ask."
            )


def parse_header(header: str) -> Signed:
    """A Signed from base64url JSON, padded or not. Raises OrderRefused."""
    if not header:
        raise OrderRefused(401, "order_missing", "The header x-penstock-order is missing.")
    if len(header) > HEADER_CHARS_MAX:
        raise OrderRefused(400, "bad_order", "The header x-penstock-order is too long.")
    try:
        text = header.rstrip("=")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise OrderRefused(400, "bad_order", "x-penstock-order is not base64url.") from error
    return parse_order(data)


def parse_order(data: bytes) -> Signed:
    """A Signed from JSON in any spelling: the signature covers the values. Raises OrderRefused."""
    try:
        return parse_signed(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, SpecError, RecursionError) as error:
        raise OrderRefused(400, "bad_order", "The order is not a signed message.") from error
