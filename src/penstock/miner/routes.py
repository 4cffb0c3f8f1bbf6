"""The miner's HTTP side: paths to handlers."""

from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.miner.paths import PATHS
from penstock.miner.service import Miner

METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


def build_routes(miner: Miner) -> Routes:
    """Handlers of one miner. An engine's other routes cannot be reached through it."""
    front = miner.parts.front

    async def health(_request: Request) -> Response:
        return json_response(200, miner.health())

    async def metrics(_request: Request) -> Response:
        return Response(200, miner.measure(), METRICS_HEADERS)

    routes = Routes()
    for path in PATHS:
        routes.add("POST", path, front.serve)
    routes.add("POST", "/v1/sessions", miner.parts.pages.open)
    routes.add("POST", "/v1/seals", miner.parts.pages.seals)
    routes.add("POST", "/v1/cancel/{order_id}", front.cancel)
    routes.add("GET", "/health", health)
    routes.add("GET", "/metrics", metrics)
    for path, handler in miner.ports.pages.items():
        routes.add("GET", path, handler)
    return routes
