"""The gateway's handler for its server: the routes, and uploads that are read while they arrive."""

from collections.abc import Awaitable

from penstock.gateway.errors import GatewayError, answer_of
from penstock.gateway.files_pages import FILES_PATH, FilePages
from penstock.gateway.meters import count_request
from penstock.kit.metrics import Metrics
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.upload import UploadLost


class UploadSite:
    """A `kit.wire.server.Site` that claims the one path where large bodies come."""

    def __init__(self, routes: Routes, pages: FilePages, metrics: Metrics) -> None:
        self._routes = routes
        self.reword = routes.reword
        self._pages = pages
        self._metrics = metrics

    def __call__(self, request: Request) -> Awaitable[Response | Stream]:
        return self._routes(request)

    def claims(self, path: str) -> bool:
        return path == FILES_PATH

    def serve(self, exchange: Exchange) -> None:
        """A POST is an upload; whatever else comes with a body here is not read."""
        if exchange.request.method == "POST":
            exchange.run(self._take(exchange))
        else:
            exchange.hand_to(self._routes)

    async def _take(self, exchange: Exchange) -> None:
        try:
            answer = await self._pages.take(exchange)
        except GatewayError as error:
            count_request(self._metrics, exchange.request.path, error.code)
            answer = answer_of(error, exchange.request.request_id)
        except UploadLost:
            return  # nobody is there to be answered
        exchange.respond(answer)
