"""The market's HTTP: shapes in, views out. What each route means stands in the service."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.market.errors import BadShape, MarketError, answer_of
from penstock.market.service import Market
from penstock.market.views import (
    Info,
    chutes_view,
    health_view,
    info_view,
    miners_view,
    targets_view,
)
from penstock.spec.errors import NotCanonical
from penstock.spec.keys import Signed, parse_signed

METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)

Answer = Callable[[Request], Awaitable[Response]]


class OfferBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/offers`."""

    offer: dict[str, Any]
    delegation: dict[str, Any] | None = None


def build_routes(market: Market, info: Info) -> Routes:
    """Every route of the station."""
    routes = Routes()
    shown: dict[str, Callable[[], object]] = {
        "/v1/info": lambda: info_view(info, market.clock.now_ms()),
        "/v1/chutes": lambda: {"chutes": chutes_view(market)},
        "/v1/targets": lambda: targets_view(market),
        "/v1/miners": lambda: miners_view(market),
        "/health": lambda: health_view(market),
    }
    for path, view in shown.items():
        routes.add("GET", path, _showing(view))
    routes.add("GET", "/metrics", _metrics(market))
    routes.add("POST", "/v1/offers", _answering(market, _post_offer(market)))
    routes.add("DELETE", "/v1/offers/{instance...}", _answering(market, _delete_offer(market)))
    routes.add("POST", "/v1/chutes", _answering(market, _post_chute(market)))
    return routes


def _showing(view: Callable[[], object]) -> Answer:
    async def show(request: Request) -> Response:
        del request
        return json_response(200, view())

    return show


def _metrics(market: Market) -> Answer:
    async def metrics(request: Request) -> Response:
        del request
        return Response(200, market.metrics.render(), METRICS_HEADERS)

    return metrics


def _answering(market: Market, handler: Answer) -> Answer:
    """Refusals become the error envelope, and are counted by their code."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except MarketError as error:
            market.metrics.count("market_refused_total", code=error.code)
            return answer_of(error, request.request_id)

    return answer


def _post_offer(market: Market) -> Answer:
    async def post_offer(request: Request) -> Response:
        body = _decoded(request.body, OfferBody)
        delegation = None if body.delegation is None else _signed(body.delegation)
        await market.offer(_signed(body.offer), delegation=delegation)
        return json_response(200, {"now_ms": market.clock.now_ms(), "accepted": True})

    return post_offer


def _delete_offer(market: Market) -> Answer:
    async def delete_offer(request: Request) -> Response:
        signed = _signed(_decoded(request.body, dict[str, Any]))
        await market.withdraw(request.params["instance"], signed)
        return json_response(200, {})

    return delete_offer


def _post_chute(market: Market) -> Answer:
    async def post_chute(request: Request) -> Response:
        signed = _signed(_decoded(request.body, dict[str, Any]))
        chute, created = await market.publish(signed)
        return json_response(200, {"chute": chute.chute, "created": created})

    return post_chute


def _decoded(body: bytes, shape: Any) -> Any:
    """Raises BadShape."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadShape(reason=str(error)[:200]) from error


def _signed(value: object) -> Signed:
    """Raises BadShape."""
    try:
        return parse_signed(value)
    except NotCanonical as error:
        raise BadShape(reason=f"not a signed message: {error.reason}") from error
