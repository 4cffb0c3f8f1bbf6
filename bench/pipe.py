"""The least a relay can do, at three levels. `python -m bench.pipe PORT TO_PORT [bytes|wire|tasks]`.

`bytes` copies between two sockets: no HTTP, no keys, no counting, in the same language and on the
same event loop as the gateway; what the gateway costs above it is what its duties cost. `wire`
carries each request through kit/wire by callbacks (`Exchange` and `Link`), and `tasks` by the
coroutines of the same wire: what they cost above `bytes` is what HTTP costs. `bench.wire` runs all.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import cast

import uvloop

from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient, link_key
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import (
    JSON_HEADERS,
    SSE_HEADERS,
    Request,
    Response,
    Stream,
    encode_fields,
)
from penstock.kit.wire.link import Link
from penstock.kit.wire.problem import problem
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

HOST = "127.0.0.1"
PATH = "/v1/chat/completions"
DEADLINE_MS = 30_000
WHOLE_FIELDS = encode_fields(JSON_HEADERS)
STREAM_FIELDS = encode_fields(SSE_HEADERS)


class End(asyncio.Protocol):
    """One end of a pair: what comes in goes out at the other."""

    def __init__(self, to_port: int, other: "End | None" = None) -> None:
        self.to_port = to_port
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []
        self.dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.other is None:
            self.dialling = asyncio.get_running_loop().create_task(self._dial())

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        _, far = await loop.create_connection(lambda: End(self.to_port, self), HOST, self.to_port)
        self.other = far
        for data in self.waiting:
            self.data_received(data)


class Pass:
    """One request through the wire: the hot handler's side and the receiver's in one."""

    def __init__(self, relay: "Relay", exchange: Exchange) -> None:
        self.relay = relay
        self.exchange = exchange
        self.link: Link | None = None
        self.status = 0
        self.streamed = False
        self.body: list[bytes] = []
        exchange.on_gone = self.gone

    def go(self, link: Link) -> None:
        """Send the request on."""
        if self.exchange.is_over:
            link.abort()
            return
        self.link = link
        body = self.exchange.request.body
        link.begin("POST", b"%b%d\r\n\r\n%b" % (self.relay.head, len(body), body), self)

    def gone(self) -> None:
        """The client left."""
        if self.link is not None:
            self.link.abort()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.streamed = b"content-length" not in headers
        if self.streamed:
            self.exchange.open_encoded(status, STREAM_FIELDS)

    def on_body(self, data: bytes) -> None:
        if self.streamed:
            self.exchange.write(data)
            if self.exchange.is_full:
                assert self.link is not None
                self.link.pause()
                self.exchange.on_writable = self.link.resume
        else:
            self.body.append(data)

    def on_end(self) -> None:
        link = self.link
        assert link is not None
        link.release()
        if self.streamed:
            self.exchange.close_stream()
        else:
            self.exchange.respond_encoded(self.status, WHOLE_FIELDS, b"".join(self.body))

    def on_lost(self, error: WireError) -> None:
        if self.exchange.is_open:
            self.exchange.cut()
        else:
            self.exchange.respond(problem(502, "upstream", str(error)))


class Relay:
    """Everything to one port, by callbacks or by coroutines."""

    def __init__(self, to_port: int) -> None:
        self.url = f"http://{HOST}:{to_port}{PATH}"
        self.key = link_key(self.url)
        self.client = HttpClient(Sockets())
        self.head = (
            f"POST {PATH} HTTP/1.1\r\nhost: {HOST}:{to_port}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()

    def take(self, exchange: Exchange) -> None:
        """The hot handler."""
        one = Pass(self, exchange)
        link = self.client.idle_link(self.key)
        if link is not None:
            one.go(link)
        else:
            exchange.run(self._dial(one))

    async def _dial(self, one: Pass) -> None:
        one.go(await self.client.dial(self.key, deadline_ms=DEADLINE_MS))
        one.exchange.on_gone = one.gone

    async def answer(self, request: Request) -> Response | Stream:
        """The handler of the same duty as a coroutine."""
        if b'"stream":true' not in request.body:
            reply = await self.client.call(
                "POST", self.url, headers=JSON_HEADERS, body=request.body, deadline_ms=DEADLINE_MS
            )
            return Response(reply.status, reply.body, JSON_HEADERS)
        return Stream(200, SSE_HEADERS, self._chunks(request))

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        async with self.client.open_stream(
            "POST",
            self.url,
            headers=JSON_HEADERS,
            body=request.body,
            head_deadline_ms=DEADLINE_MS,
        ) as reply:
            async for chunk in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                yield chunk


async def serve(port: int, to_port: int, kind: str) -> None:
    """Relay until SIGTERM; says `ready` once it listens."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if kind == "bytes":
        async with await loop.create_server(lambda: End(to_port), HOST, port):
            print("ready", flush=True)
            await stopped.wait()
        return
    relay = Relay(to_port)
    hot = {PATH: relay.take} if kind == "wire" else {}
    server = Server(Sockets(), relay.answer, entropy=os.urandom, hot=hot)
    await server.start(HOST, port)
    print("ready", flush=True)
    await stopped.wait()
    await server.close(1_000)
    await relay.client.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), *(sys.argv[3:] or ["bytes"])))
