"""The validator over HTTP: how it is, and its numbers. It takes no orders from anybody."""

from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.validator.service import Validator

METRICS_HEADERS = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


def build_routes(validator: Validator) -> Routes:
    """`/health` and `/metrics`."""

    async def health(request: Request) -> Response:
        del request
        return json_response(200, validator.health())

    async def metrics(request: Request) -> Response:
        del request
        return Response(200, validator.metrics.render(), METRICS_HEADERS)

    table = Routes()
    table.add("GET", "/health", health)
    table.add("GET", "/metrics", metrics)
    return table
