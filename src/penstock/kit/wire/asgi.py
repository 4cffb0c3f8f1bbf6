"""An ASGI 3 app (Starlette) on the same port, for every path that has no route of our own.

The app sees a request as soon as its head is here and reads the body while it arrives; what it
sends waits when the client reads slowly, so neither is ever held whole. Framing, bounds, deadlines
and drain stay the server's. A client that leaves becomes `http.disconnect` for who receives and an
OSError for who sends (ASGI 2.4); an app that goes on all the same is cancelled after a while.

Lifespan is not spoken: what an app needs, its station makes and closes.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect

from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Request, Response, Stream, encode_raw_fields
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.upload import UploadLost

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

LEAVE_DEADLINE_MS = 5_000
_DISCONNECT = "http.disconnect"


class ClientLeft(OSError):
    """The app sends to a client that has gone."""


class BadAnswer(RuntimeError):
    """The app does not keep to ASGI: a bug in it."""


class AsgiSite:
    """The handler to give a `Server`: `routes` where they know the path, `app` elsewhere."""

    def __init__(
        self,
        app: AsgiApp,
        routes: Routes | None = None,
        *,
        scheme: str = "http",
        leave_deadline_ms: int = LEAVE_DEADLINE_MS,
    ) -> None:
        self._app = app
        self._routes = routes if routes is not None else Routes()
        self._scheme = scheme
        self._leave_deadline_ms = leave_deadline_ms

    def __call__(self, request: Request) -> Awaitable[Response | Stream]:
        """What the app does not claim is answered by the routes."""
        return self._routes(request)

    def claims(self, path: str) -> bool:
        """Is the path the app's?"""
        return not self._routes.knows(path)

    def serve(self, exchange: Exchange) -> None:
        """Let the app answer."""
        talk = Conversation(exchange)
        exchange.run(self._run(talk, scope_of(exchange, scheme=self._scheme)))
        cancel = exchange.on_gone
        loop = asyncio.get_running_loop()

        def gone() -> None:
            talk.end()
            if cancel is not None:
                talk.cancelling = loop.call_later(self._leave_deadline_ms / 1000, cancel)

        exchange.on_gone = gone

    async def _run(self, talk: "Conversation", scope: Message) -> None:
        try:
            await self._app(scope, talk.receive, talk.send)
        except (ClientLeft, ClientDisconnect):
            return  # the latter is Starlette's word for the former
        finally:
            talk.end()
            if talk.cancelling is not None:
                talk.cancelling.cancel()
        if not talk.exchange.is_over:
            raise BadAnswer("the app returned before its answer was whole")


class Conversation:
    """`receive` and `send` of one request."""

    __slots__ = ("_asked", "_ended", "_fields", "_length", "_status", "cancelling", "exchange")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.cancelling: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()  # the client left, or the answer is whole
        self._asked = False  # the whole body was handed on
        self._status = 0
        self._fields = b""
        self._length: int | None = None

    def end(self) -> None:
        """Nothing more comes or goes."""
        self._ended.set()

    async def receive(self) -> Message:
        """The next part of the body, and after it the end of the conversation."""
        upload = self.exchange.upload
        if self._asked or self._ended.is_set():
            await self._ended.wait()
            return {"type": _DISCONNECT}
        if upload is None:
            self._asked = True
            return {
                "type": "http.request",
                "body": self.exchange.request.body,
                "more_body": False,
            }
        try:
            part = await upload.next()
        except UploadLost:
            self._ended.set()
            return {"type": _DISCONNECT}
        self._asked = not part
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    async def send(self, message: Message) -> None:
        """The head, then parts of the body. Raises ClientLeft, BadAnswer."""
        if self.exchange.is_over:
            raise ClientLeft
        match message["type"]:
            case "http.response.start":
                self._start(message)
            case "http.response.body":
                await self._body(message.get("body", b""), more=message.get("more_body", False))
            case kind:
                raise BadAnswer(f"this server does not know {kind}")

    def _start(self, message: Message) -> None:
        if self._status:
            raise BadAnswer("the answer was started before")
        headers = [
            (bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())
        ]
        lengths = [value for name, value in headers if name == b"content-length"]
        self._status = message["status"]
        self._length = int(lengths[0]) if lengths else None
        self._fields = encode_raw_fields(headers)

    async def _body(self, part: bytes, *, more: bool) -> None:
        exchange = self.exchange
        if not self._status:
            raise BadAnswer("the answer was not started")
        part = bytes(part)
        if exchange.is_open:
            exchange.write(part)
        elif not more and self._length in {None, len(part)}:
            exchange.respond_encoded(self._status, self._fields, part)
        else:
            exchange.open_encoded(self._status, self._fields, length=self._length)
            exchange.write(part)
        if not more:
            if exchange.is_open:
                exchange.close_stream()
            self.end()
        elif exchange.is_full:
            await exchange.drained()


def scope_of(exchange: Exchange, *, scheme: str) -> Message:
    """What ASGI calls a request."""
    request, upload = exchange.request, exchange.upload
    headers = list(request.headers.items())
    length = len(request.body) if upload is None else upload.length
    if length is not None and (length or request.method in {"POST", "PUT", "PATCH"}):
        headers.append((b"content-length", b"%d" % length))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": exchange.http_version,
        "method": request.method,
        "scheme": scheme,
        "path": unquote(request.path),
        "raw_path": request.path.encode("ascii"),
        "query_string": request.query.encode("ascii"),
        "root_path": "",
        "headers": headers,
        "client": (request.peer, 0) if request.peer else None,
        "server": None,
        "state": {"request_id": request.request_id},
    }
