"""Which orders are served: the checks of `docs/interfaces.md`, cheapest first where order allows.

An order that is not from a chartered gateway, not for us, or not for these bytes gets no receipt: we
never took it. Want of room at the instance is no failure of the order: that gets a receipt.

An order comes signed, or vouched for under a session: then a MAC stands in for the signature, which
comes with its gateway's seal. All other checks are the same.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from penstock.kit.handshake import is_same, order_mac, parse_session_header
from penstock.kit.spell import read_order
from penstock.miner.charter import Trust
from penstock.miner.errors import OrderRefused
from penstock.miner.instance import Instance
from penstock.miner.replay import ReplayGuard
from penstock.miner.sealing import Sealing
from penstock.miner.sessions import Session, Sessions
from penstock.miner.statement import Statement, spelled_statement, state
from penstock.miner.timing import MarketTime
from penstock.spec.errors import Expired, SpecError
from penstock.spec.keys import Signed, open_signed, parse_signed
from penstock.spec.messages import Order, check_order, check_order_terms
from penstock.spec.params import Params
from penstock.spec.pricing import charge_ceiling

HEADER_CHARS_MAX = 16_384
"""An order is about 1 KiB of JSON; a header beyond this is refused before it is decoded."""

FindInstance = Callable[[str], Instance | None]


@dataclass(frozen=True, slots=True)
class Authentic:
    """An order that is surely its gateway's: signed, or vouched for under `session`."""

    order: Order
    statement: Statement
    session: Session | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """An order that is valid for this miner and was not seen before."""

    order: Order
    statement: Statement
    session: Session | None
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
    sessions: Sessions
    sealing: Sealing

    def admit(self, header: str, *, path: str, body: bytes, session: str = "") -> Admitted:
        """The order in `x-penstock-order`, if it may be served now. Raises OrderRefused.

        `session` is `x-penstock-session`, "" for a signed order. The order is remembered: the same
        one again is refused with `order_replayed`.
        """
        now_ms, body_digest = self.time.now_ms(), sha256(body).hexdigest()
        if session:
            found = self._vouched(_ascii(header), session, now_ms=now_ms)
            _check_terms(found.order, body_digest, now_ms)
        else:
            found = self._signed(parse_header(header), body_digest, now_ms=now_ms)
        order = found.order
        if order.deadline_ms > now_ms + self.params.order_ttl_ms + self.params.clock_skew_max_ms:
            raise OrderRefused(400, "bad_order", "The order's deadline is too far away.")
        if order.path != path:
            raise OrderRefused(400, "bad_order", f"The order is for {order.path}, not for {path}.")
        instance = self._instance(order)
        self._check_pay(order, instance, now_ms=now_ms)
        if self._is_known(order):
            raise OrderRefused(409, "order_replayed", "This order was served before.")
        if self.replay.is_full(now_ms=now_ms):
            raise OrderRefused(503, "no_capacity", "Too many orders are remembered at once.")
        if found.session is not None:
            self._take(found)
        self.replay.remember(order.order_id, deadline_ms=order.deadline_ms, now_ms=now_ms)
        return Admitted(order, found.statement, found.session, instance)

    def proof(self, body: bytes, *, session: str = "") -> Order:
        """The order that a cancel shows as its proof. Raises OrderRefused.

        Only its signature or MAC counts: it may be late, and the body it was for is not here any
        more.
        """
        if session:
            order = self._vouched(body, session, now_ms=self.time.now_ms()).order
        else:
            order = self._opened(parse_order(body))
        if order.miner != self.miner:
            raise OrderRefused(403, "bad_order", "The order is not for us.")
        return order

    def _opened(self, signed: Signed) -> Order:
        """The order, signed by the gateway that it names. Raises OrderRefused."""
        try:
            order = open_signed(Order, signed, kind="order", verify=self.trust.verify)
        except SpecError as error:
            raise _broken(error) from error
        if signed.signer != order.gateway:
            raise OrderRefused(403, "bad_order", "The signer is not the gateway that it names.")
        return order

    def _vouched(self, data: bytes, session: str, *, now_ms: int) -> Authentic:
        """The order of these canonical bytes, under a session. Raises OrderRefused."""
        named = parse_session_header(session)
        if named is None:
            raise OrderRefused(400, "bad_order", "x-penstock-session is not an id and a MAC.")
        session_id, mac = named
        found = self.sessions.find(session_id, now_ms=now_ms)
        if found is None:
            raise OrderRefused(
                401,
                "session_unknown",
                "No such session is open. Sign the order, or open a new one.",
            )
        statement = spelled_statement("order", data, signer=found.gateway)
        if not is_same(mac, order_mac(found.key, statement.digest)):
            raise OrderRefused(400, "bad_order", "The order's MAC does not hold.")
        try:
            order = read_order(data)
        except SpecError as error:
            raise _broken(error) from error
        if order.gateway != found.gateway:
            raise OrderRefused(
                400, "bad_order", "The order names another gateway than its session."
            )
        return Authentic(order, statement, found)

    def _signed(self, signed: Signed, body_digest: str, *, now_ms: int) -> Authentic:
        """The order that a chartered gateway signed for these bytes. Raises OrderRefused."""
        if not self.trust.is_gateway(signed.signer, now_ms=now_ms):
            raise OrderRefused(
                403, "gateway_unknown", "The order's signer is no gateway of this market's charter."
            )
        try:
            order = check_order(
                signed, body_digest=body_digest, now_ms=now_ms, verify=self.trust.verify
            )
        except SpecError as error:
            raise _broken(error) from error
        statement = state("order", order, signer=signed.signer, signature=signed.signature)
        return Authentic(order, statement, None)

    def _take(self, found: Authentic) -> None:
        """Put a vouched order among those that wait for their gateway's seal. Raises OrderRefused."""
        order = found.order
        if not self.sealing.has_room(order.gateway):
            raise OrderRefused(
                503,
                "no_capacity",
                "Too many of your orders are not sealed. Seal them or sign this.",
            )
        self.sealing.take(order.order_id, found.statement, deadline_ms=order.deadline_ms)

    def _is_known(self, order: Order) -> bool:
        """Was it served before, or would it take the place of one that still earns?"""
        order_id = order.order_id
        is_seen = self.replay.has_seen(order_id) or self.sealing.knows(order_id)
        return is_seen or self._is_old(order)

    def _is_old(self, order: Order) -> bool:
        """Was it issued before this process could serve any? A former life may have served it."""
        return order.issued_ms < self.time.first_ms - self.params.clock_skew_max_ms

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
            order.price,
            prompt_max=order.prompt_max,
            completion_max=order.completion_max,
            images_max=order.images_max,
            audio_ms_max=order.audio_ms_max,
        )
        if not instance.has_offered(order.price, now_ms=now_ms) or order.charge_max < due:
            raise OrderRefused(
                409, "order_underpaid", "The order pays less than this instance's offers ask."
            )


def _check_terms(order: Order, body_digest: str, now_ms: int) -> None:
    """Raises OrderRefused."""
    try:
        check_order_terms(order, body_digest=body_digest, now_ms=now_ms)
    except SpecError as error:
        raise _broken(error) from error


def _broken(error: SpecError) -> OrderRefused:
    """How an order that breaks the law is refused."""
    if isinstance(error, Expired):
        late_ms = error.now_ms - error.at_ms
        words = f"The order ended {late_ms} ms ago by the market's clock."
        return OrderRefused(400, "order_expired", words)
    return OrderRefused(400, "bad_order", f"The order does not hold: {error}.")


def _ascii(header: str) -> bytes:
    """The canonical bytes in the header of a vouched order. Raises OrderRefused."""
    if not header:
        raise OrderRefused(401, "order_missing", "The header x-penstock-order is missing.")
    if len(header) > HEADER_CHARS_MAX or not header.isascii():
        raise OrderRefused(400, "bad_order", "x-penstock-order is too long, or not in ASCII.")
    return header.encode("ascii")


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
