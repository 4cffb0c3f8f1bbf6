"""Everything of a gateway that is read: models, receipts, balances, and how it is.

Receipts are open to whoever knows an order id: they hold digests, counts and a payer tag that only
this gateway can read, but no text and no account.
"""

import msgspec

from penstock.gateway.admit import secret_of
from penstock.gateway.errors import BooksBehind, NotReady, ReceiptUnknown
from penstock.gateway.models import model_card, model_list, page_of
from penstock.gateway.openapi import document
from penstock.gateway.service import Gateway
from penstock.kit.errors import WireError
from penstock.kit.ports import BusDown
from penstock.kit.release import release
from penstock.kit.wire.http import JSON_HEADERS, Request, Response, json_response

RECEIPT_SUBJECT = "ledger.receipt"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BALANCE_BYTES_MAX = 65_536
ORDER_ID_CHARS_MAX = 80
SEAL_WAIT_MS = 2_000
READY_ASK_MS = 1_000
READY_KEEP_MS = 1_000
"""How long the bus's last word stands, so that asking us often does not ask the bus often."""


class ReceiptAnswer(msgspec.Struct):
    """Only whether there is one; the rest is passed on as it is."""

    error: str = ""


class Pages:
    """Everything that is read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._release = release()
        self._openapi = msgspec.json.encode(document(self._release.version))
        self._bus_seen_ms = -READY_KEEP_MS
        self._bus_is_up = False

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: the newest chute of every name. Raises BadRequest."""
        directory = self._gateway.directory
        chutes = directory.chutes()
        shown, has_more = page_of(
            chutes,
            limit=request.query_value("limit"),
            after_id=request.query_value("after_id"),
            before_id=request.query_value("before_id"),
        )
        cards = [
            model_card(chute, instances=len(directory.instances(chute.chute))) for chute in shown
        ]
        return json_response(200, model_list(cards, has_more=has_more, total=len(chutes)))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`: by whatever calls a model: name (which may hold slashes), digest or
        alias. Raises ModelUnknown, BadRequest.
        """
        chute = self._gateway.planner.meant(request.params["id"])
        instances = self._gateway.directory.instances(chute.chute)
        card = model_card(chute, instances=len(instances))
        return json_response(200, card)

    async def receipt(self, request: Request) -> Response:
        """`GET /v1/receipts/{id}`: the ledger's answer, with its proof; until the ledger has the
        record, this gateway's copy with `seq` -1. A record that is not sealed yet is waited for.
        Raises ReceiptUnknown, BooksBehind.
        """
        gateway, order_id = self._gateway, request.params["id"]
        if len(order_id) > ORDER_ID_CHARS_MAX:
            raise ReceiptUnknown(order_id=order_id)
        await gateway.sealer.wait_for(order_id, deadline_ms=SEAL_WAIT_MS)
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
        gateway, secret = self._gateway, secret_of(request)
        await gateway.admission.key_of(secret, gateway.admission.visitor(request))
        try:
            reply = await gateway.http.call(
                "GET",
                f"{gateway.ledger_url}/v1/balance",
                headers=(("authorization", f"Bearer {secret}"),),
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

    async def alive(self, _: Request) -> Response:
        """`GET /livez`: this process answers."""
        return json_response(200, {"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """`GET /readyz`: requests make sense here. Raises NotReady until the directory has a chute
        with an instance and the ledger answers over the bus.
        """
        directory = self._gateway.directory
        missing = []
        if not directory.names():
            missing.append("no model is known yet")
        elif not directory.instances_count:
            missing.append("no instance serves yet")
        if not await self._asks_bus():
            missing.append("the ledger does not answer over the bus")
        if missing:
            raise NotReady(missing=tuple(missing))
        return json_response(200, {"status": "ok"})

    async def version(self, _: Request) -> Response:
        """`GET /version`."""
        return json_response(200, self._release)

    async def openapi(self, _: Request) -> Response:
        """`GET /openapi.json`: this surface, for machines."""
        return Response(200, self._openapi, JSON_HEADERS)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`: Prometheus text, of all processes that share the port."""
        gateway = self._gateway
        text = b"" if gateway.gather is None else await gateway.gather()
        return Response(200, text or gateway.metrics.render(), (("content-type", METRICS_TYPE),))

    async def _asks_bus(self) -> bool:
        gateway = self._gateway
        now_ms = gateway.clock.now_ms()
        if now_ms - self._bus_seen_ms >= READY_KEEP_MS:
            question = msgspec.json.encode({"order_id": ""})
            try:
                await gateway.bus.ask(RECEIPT_SUBJECT, question, deadline_ms=READY_ASK_MS)
                self._bus_is_up = True
            except BusDown:
                self._bus_is_up = False
            self._bus_seen_ms = now_ms
        return self._bus_is_up
