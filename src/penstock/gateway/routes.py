"""HTTP to the gateway: which path does what, and every refusal in its caller's envelope.

A POST to an inference path never comes this way: the server gives it to `Gateway.ask` by callbacks
(`hot_paths`), and an upload goes to UploadSite. The table knows those paths all the same, so that a
wrong method is told the right one.
"""

import msgspec

from penstock.gateway.answers import reworded
from penstock.gateway.batches_pages import BATCHES_PATH, BatchPages
from penstock.gateway.dialects import error_answer
from penstock.gateway.errors import GatewayError, answer_of
from penstock.gateway.files_pages import FILES_PATH, FilePages
from penstock.gateway.files_site import UploadSite
from penstock.gateway.market_page import MARKET_PATH
from penstock.gateway.meters import count_request
from penstock.gateway.pages import Pages
from penstock.gateway.service import Gateway
from penstock.gateway.tunnels import TUNNELS_PATH
from penstock.gateway.unsupported import add_unsupported
from penstock.kit.wire.http import Handler, Request, Response, Stream
from penstock.kit.wire.routes import Routes


def build_routes(gateway: Gateway) -> Routes:
    """All routes of a gateway, ready for a Server that also gets `gateway.hot_paths()`."""
    pages = Pages(gateway)
    routes = Routes(reword=reworded)
    for path in gateway.hot_paths():
        routes.add("POST", path, _by_callbacks)
    for path, handler in (
        ("/v1/models", pages.models),
        ("/v1/models/{id...}", pages.model),
        ("/health", pages.health),
        ("/livez", pages.alive),
        ("/readyz", pages.ready),
        ("/version", pages.version),
        ("/openapi.json", pages.openapi),
        ("/metrics", pages.metrics),
    ):
        routes.add("GET", path, _guarded(gateway, handler))
    for path, handler in (("/v1/receipts/{id}", pages.receipt), ("/v1/balance", pages.balance)):
        routes.add("GET", path, _guarded(gateway, _counted(gateway, handler)))
    if gateway.files is not None and gateway.batches is not None:
        files = FilePages(gateway, gateway.files)
        batches = BatchPages(gateway, gateway.files, gateway.batches)
        for method, path, answer in (
            ("GET", FILES_PATH, files.list),
            ("GET", f"{FILES_PATH}/{{id}}", files.one),
            ("GET", f"{FILES_PATH}/{{id}}/content", files.content),
            ("DELETE", f"{FILES_PATH}/{{id}}", files.remove),
            ("GET", BATCHES_PATH, batches.list),
            ("POST", BATCHES_PATH, batches.make),
            ("GET", f"{BATCHES_PATH}/{{id}}", batches.one),
            ("POST", f"{BATCHES_PATH}/{{id}}/cancel", batches.cancel),
        ):
            routes.add(method, path, _guarded(gateway, _counted(gateway, answer)))
        routes.add("POST", FILES_PATH, _by_callbacks)
    if gateway.market_page is not None:
        routes.add("GET", MARKET_PATH, _guarded(gateway, gateway.market_page.page))
    if gateway.tunnels is not None:
        routes.add("GET", TUNNELS_PATH, _guarded(gateway, gateway.tunnels.page))
    add_unsupported(routes, guard=lambda handler: _guarded(gateway, handler))
    return routes


def build_site(gateway: Gateway) -> Handler:
    """The routes, and the uploads beside them if the gateway keeps files: for a Server."""
    routes = build_routes(gateway)
    if gateway.files is None:
        return routes
    return UploadSite(routes, FilePages(gateway, gateway.files), gateway.metrics)


def _guarded(gateway: Gateway, handler: Handler) -> Handler:
    """Refusals become answers in the dialect of their path, and are counted by their code."""

    async def handle(request: Request) -> Response | Stream:
        try:
            return await handler(request)
        except GatewayError as error:
            count_request(gateway.metrics, request.path, error.code)
            answer = answer_of(error, request.request_id)
            status, body = error_answer(
                request.path,
                answer.status,
                envelope=msgspec.json.decode(answer.body),
                request_id=request.request_id,
            )
            return Response(status, body, answer.headers)

    return handle


def _counted(gateway: Gateway, handler: Handler) -> Handler:
    """What the ledger or the store must answer: an address may ask for so much of it only."""

    async def handle(request: Request) -> Response | Stream:
        gateway.admission.check_reads(gateway.admission.visitor(request))
        return await handler(request)

    return handle


async def _by_callbacks(request: Request) -> Response:
    raise AssertionError(f"the server was started without the hot handler of {request.path}")
