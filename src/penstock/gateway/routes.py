"""HTTP to the gateway: which path does what, and every refusal as OpenAI's error envelope.

Receipts are open to whoever knows an order id: they hold digests, counts and a payer tag that only
this gateway can read, but no text and no account.
"""

import msgspec

from penstock.gateway.bodies import MODALITIES
from penstock.gateway.errors import (
    BooksBehind,
    GatewayError,
    ReceiptUnknown,
    answer_of,
)
from penstock.gateway.models import model_card, model_list
from penstock.gateway.service import Gateway
from penstock.kit.errors import WireError
from penstock.kit.ports import BusDown
from penstock.kit.wire.http import (
    JSON_HEADERS,
    Handler,
    Request,
    Response,
    Stream,
    json_response,
)
from penstock.kit.wire.routes import Routes

RECEIPT_SUBJECT = "ledger.receipt"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BALANCE_BYTES_MAX = 65_536
ORDER_ID_CHARS_MAX = 80


class ReceiptAnswer(msgspec.Struct):
    """Only whether there is one; the rest is passed on as it is."""

    error: str = ""


def build_routes(gateway: Gateway) -> Routes:
    """All routes of a gateway, ready for a Server."""
    pages = Pages(gateway)
    routes = Routes()
    for path in MODALITIES:
        routes.add("POST", path, _guarded(gateway, gateway.answer))
    for path, handler in (
        ("/v1/models", pages.models),
        ("/v1/models/{id...}", pages.model),
        ("/v1/receipts/{id}", pages.receipt),
        ("/v1/balance", pages.balance),
        ("/health", pages.health),
        ("/metrics", pages.metrics),
    ):
        routes.add("GET", path, _guarded(gateway, handler))
    return routes


def _guarded(gateway: Gateway, handler: Handler) -> Handler:
    """Refusals become answers, and are counted by their code."""

    async def handle(request: Request) -> Response | Stream:
        try:
            return await handler(request)
        except GatewayError as error:
            gateway.metrics.count("gateway_requests_total", outcome=error.code)
            return answer_of(error, request.request_id)

    return handle


class Pages:
    """Everything that is read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`: the newest chute of every name."""
        directory = self._gateway.directory
        cards = [
            model_card(chute, instances=len(directory.instances(chute.chute)))
            for chute in directory.chutes()
        ]
        return json_response(200, model_list(cards))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`: by name (which may hold slashes) or digest. Raises ModelUnknown."""
        directory = self._gateway.directory
        chute = directory.resolve(request.params["id"])
        card = model_card(chute, instances=len(directory.instances(chute.chute)))
        return json_response(200, card)

    async def receipt(self, request: Request) -> Response:
        """`GET /v1/receipts/{id}`: the ledger's answer, with its proof; until the ledger has the
        record, this gateway's copy with `seq` -1. Raises ReceiptUnknown, BooksBehind.
        """
        gateway, order_id = self._gateway, request.params["id"]
        if len(order_id) > ORDER_ID_CHARS_MAX:
            raise ReceiptUnknown(order_id=order_id)
        recent = gateway.recorder.recent(order_id)
        question = msgspec.json.encode({"order_id": order_id})
        try:
            data = await gateway.bus.ask(
                RECEIPT_SUBJECT, question, deadline_ms=gateway.deadlines.ask_ms
            )
            if not msgspec.json.decode(data, type=ReceiptAnswer).error:
                return Response(200, data, JSON_HEADERS)
        except (BusDown, msgspec.DecodeError) as error:
            if recent is None:
                raise BooksBehind(what="The ledger does not answer.") from error
        if recent is None:
            raise ReceiptUnknown(order_id=order_id)
        copy = {"record": recent, "seq": -1, "checkpoint": "", "size": 0, "proof": []}
        return json_response(200, copy)

    async def balance(self, request: Request) -> Response:
        """`GET /v1/balance`: the ledger's word, asked with the caller's own key. BooksBehind."""
        gateway = self._gateway
        await gateway.admission.key_of(request.bearer())
        try:
            reply = await gateway.http.call(
                "GET",
                f"{gateway.ledger_url}/v1/balance",
                headers=(("authorization", f"Bearer {request.bearer()}"),),
                deadline_ms=gateway.deadlines.ask_ms,
                body_bytes_max=BALANCE_BYTES_MAX,
            )
        except (WireError, ValueError) as error:
            raise BooksBehind(what="The ledger does not answer.") from error
        return Response(reply.status, reply.body, JSON_HEADERS)

    async def health(self, _: Request) -> Response:
        """`GET /health`: what is there, for whoever starts or watches this gateway."""
        gateway = self._gateway
        health = {
            "status": "ok",
            "name": gateway.name,
            "identity": gateway.sign.identity,
            "models": len(gateway.directory.names()),
            "instances": gateway.directory.instances_count,
            "records_waiting": gateway.recorder.waiting,
            "running": gateway.admission.running,
        }
        return json_response(200, health)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`: Prometheus text."""
        return Response(200, self._gateway.metrics.render(), (("content-type", METRICS_TYPE),))
