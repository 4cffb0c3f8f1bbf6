"""`POST /v1/sessions` and `POST /v1/seals`: what gateways send beside their orders."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from penstock.kit.handshake import is_same, seals_mac
from penstock.kit.metrics import Metrics
from penstock.kit.wire.http import JSON_HEADERS, Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.miner.errors import SessionRefused
from penstock.miner.sealing import OrderSeals, ReceiptSeals, Sealing
from penstock.miner.sessions import Session, Sessions
from penstock.spec.canon import encode
from penstock.spec.seals import SEAL_CHARS_MAX, SEAL_LEAVES_MAX

SEALS_BYTES_MAX = 1 << 16
ORDER_ID_CHARS_MAX = 128

_OrderId = Annotated[str, msgspec.Meta(max_length=ORDER_ID_CHARS_MAX)]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Leaves = msgspec.Meta(min_length=1, max_length=SEAL_LEAVES_MAX)


class _OrderSeals(msgspec.Struct, forbid_unknown_fields=True):
    order_ids: Annotated[list[_OrderId], _Leaves]
    digests: Annotated[list[_Digest], _Leaves]
    root_signature: Annotated[str, msgspec.Meta(max_length=SEAL_CHARS_MAX)]


class _Rest(msgspec.Struct, forbid_unknown_fields=True):
    """All of a request for seals but its MAC."""

    session_id: str
    orders: _OrderSeals | None
    receipts: Annotated[list[_OrderId], msgspec.Meta(max_length=SEAL_LEAVES_MAX)]


class _Seals(_Rest, forbid_unknown_fields=True):
    mac: str


_decode = msgspec.json.Decoder(_Seals).decode
_spell = msgspec.json.Encoder(order="sorted").encode


@dataclass(slots=True)
class SessionPages:
    """Answers gateways about sessions and seals."""

    sessions: Sessions
    sealing: Sealing
    metrics: Metrics

    async def open(self, request: Request) -> Response:
        """A signed offer -> our signed answer."""
        try:
            answer = self.sessions.open(request.body)
        except SessionRefused as refused:
            return self._refused(refused, request)
        self.metrics.gauge("miner_sessions", len(self.sessions))
        return Response(200, encode(answer), JSON_HEADERS)

    async def seals(self, request: Request) -> Response:
        """A gateway's seal over its orders, and our seal over the receipts that it asks for.

        Any session of a gateway speaks for all its orders, those of sessions that are over too.
        """
        try:
            asked = _parse(request.body)
            session = self._authentic(asked)
            known = 0 if asked.orders is None else self._take(session, asked.orders)
        except SessionRefused as refused:
            return self._refused(refused, request)
        given = self.sealing.give_seals(session.gateway, asked.receipts)
        self.metrics.count("miner_seals_total")
        return json_response(
            200,
            {"orders_known": known, "receipts": _said(given), "unknown": given.unknown},
        )

    def _authentic(self, asked: _Seals) -> Session:
        """The session whose key made the MAC. Raises SessionRefused."""
        session = self.sessions.find(asked.session_id, now_ms=self.sealing.time.now_ms())
        if session is None:
            raise SessionRefused(401, "session_unknown", "No such session is open. Open a new one.")
        rest = _Rest(session_id=asked.session_id, orders=asked.orders, receipts=asked.receipts)
        if not is_same(asked.mac, seals_mac(session.key, _spell(rest))):
            raise SessionRefused(403, "bad_mac", "The request is not by the session's gateway.")
        return session

    def _take(self, session: Session, orders: _OrderSeals) -> int:
        if len(orders.order_ids) != len(orders.digests):
            raise SessionRefused(400, "bad_seal", "A seal names one digest for each order.")
        digests = [bytes.fromhex(one) for one in orders.digests]
        seals = OrderSeals(orders.order_ids, digests, orders.root_signature)
        return self.sealing.take_seals(session.gateway, seals)

    def _refused(self, refused: SessionRefused, request: Request) -> Response:
        self.metrics.count("miner_sessions_refused_total", code=refused.code)
        return problem(refused.status, refused.code, refused.message, request_id=request.request_id)


def _parse(body: bytes) -> _Seals:
    """Raises SessionRefused."""
    if len(body) > SEALS_BYTES_MAX:
        raise SessionRefused(
            413, "body_too_large", f"A request for seals has at most {SEALS_BYTES_MAX} bytes."
        )
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SessionRefused(400, "bad_seal", f"The request cannot be read: {error}.") from error


def _said(given: ReceiptSeals) -> dict[str, object] | None:
    if not given.order_ids:
        return None
    return {"order_ids": given.order_ids, "root_signature": given.root_signature}
