"""A dishonest front before a miner: it passes everything on, but hands out an old receipt for a new
answer, as a miner would who hopes that nobody compares digests.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from penstock.kit.errors import WireError
from penstock.kit.sse import EventSplitter, comment, parse_comment
from penstock.kit.wire.client import HttpClient, StreamReply
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.problem import problem
from penstock.spec.sessions import SESSION_HEADER
from penstock.spec.stream import ORDER_HEADER, RECEIPT_COMMENT, RECEIPT_HEADER

HEAD_MS = 20_000
IDLE_MS = 20_000
BODY_BYTES_MAX = 1 << 20


class Impostor:
    """Its `serve` is a handler for any path."""

    def __init__(self, client: HttpClient, inside_url: str) -> None:
        self._client = client
        self._inside_url = inside_url
        self._old_header = ""
        self._old_payload = b""

    async def serve(self, request: Request) -> Response | Stream:
        """Ask the real miner and twist its last word."""
        stack = AsyncExitStack()
        headers = [("content-type", "application/json")]
        for name in (ORDER_HEADER, SESSION_HEADER):
            headers += [(name, value)] if (value := request.header(name)) else []
        handed_on = False
        try:
            reply = await stack.enter_async_context(
                self._client.open_stream(
                    request.method,
                    self._inside_url + request.path,
                    headers=headers,
                    body=request.body,
                    head_deadline_ms=HEAD_MS,
                )
            )
            kind = reply.header("content-type")
            if kind.startswith("text/event-stream"):
                handed_on = True
                return Stream(200, (("content-type", kind),), self._events(reply, stack))
            body = await reply.read(bytes_max=BODY_BYTES_MAX, idle_deadline_ms=IDLE_MS)
            return Response(reply.status, body, self._headers(reply))
        except WireError as error:
            return problem(502, "miner_failed", str(error))
        finally:
            if not handed_on:
                await stack.aclose()

    def _headers(self, reply: StreamReply) -> tuple[tuple[str, str], ...]:
        headers = (("content-type", reply.header("content-type")),)
        receipt = reply.header(RECEIPT_HEADER)
        if not receipt:
            return headers
        self._old_header = self._old_header or receipt
        return (*headers, (RECEIPT_HEADER, self._old_header))

    async def _events(self, reply: StreamReply, stack: AsyncExitStack) -> AsyncIterator[bytes]:
        splitter = EventSplitter()
        try:
            async for chunk in reply.chunks(idle_deadline_ms=IDLE_MS):
                for event in splitter.feed(chunk):
                    yield self._twisted(event)
        except WireError:
            return  # the real miner is gone, and so the answer just ends
        finally:
            await stack.aclose()

    def _twisted(self, event: bytes) -> bytes:
        said = parse_comment(event)
        if said is None or said[0] != RECEIPT_COMMENT:
            return event
        self._old_payload = self._old_payload or said[1]
        return comment(RECEIPT_COMMENT, self._old_payload)
