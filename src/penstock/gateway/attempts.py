"""One order at one instance: sent, answered in one piece or as a stream, possibly abandoned.

An attempt never raises for what a miner does: it ends with `failure` set, and whoever asked decides
what comes next. It sees every byte once and counts it in its tally.
"""

import asyncio
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus

from penstock.gateway.bodies import Call
from penstock.gateway.config import Bounds, Deadlines
from penstock.gateway.instances import Instance
from penstock.gateway.orders import Placed
from penstock.gateway.policy import WORD_BYTES_MAX
from penstock.gateway.tally import Tally
from penstock.kit.errors import PeerClosed, WireError
from penstock.kit.ports import Clock
from penstock.kit.wire.client import Chunks, HttpClient, StreamReply
from penstock.spec.stream import ORDER_HEADER, RECEIPT_HEADER

EVENT_STREAM = "text/event-stream"
CANCEL_REPLY_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Line:
    """What an attempt needs of the world."""

    http: HttpClient
    clock: Clock
    deadlines: Deadlines
    bounds: Bounds
    total_ms: int


class Attempt:
    """One order on its way. `open` first; then, for a stream, `read` until `is_over`."""

    __slots__ = (
        "_chunks",
        "_line",
        "_reply",
        "_stack",
        "body",
        "call",
        "failure",
        "first",
        "first_us",
        "instance",
        "is_over",
        "last_us",
        "placed",
        "started_us",
        "status",
        "tally",
    )

    def __init__(self, line: Line, call: Call, *, placed: Placed, instance: Instance) -> None:
        self._line = line
        self._stack = AsyncExitStack()
        self._reply: StreamReply | None = None
        self._chunks: Chunks | None = None
        self.call = call
        self.placed = placed
        self.instance = instance
        self.tally = Tally()
        self.status = 0
        self.body = b""
        self.first = b""
        """The first bytes of a stream, for the client."""
        self.failure = ""
        self.is_over = False
        self.started_us = self.first_us = self.last_us = line.clock.mono_us()
        instance.started()

    @property
    def is_streaming(self) -> bool:
        """A stream is open and its first bytes are here."""
        return self._chunks is not None and bool(self.first)

    @property
    def is_error(self) -> bool:
        """The engine (or the miner) answered with an error status."""
        return self.status >= 400

    @property
    def is_refusal(self) -> bool:
        """The miner turned the order away; whoever has begun an answer can refuse no more."""
        return self.status == HTTPStatus.SERVICE_UNAVAILABLE

    def content_type(self) -> str:
        """What the miner says the body is; JSON if it does not."""
        return (self._reply.header("content-type") if self._reply else "") or "application/json"

    async def open(self) -> None:
        """Send the order; return with a whole body, the first bytes of a stream, or a failure."""
        line = self._line
        head_ms = line.deadlines.head_ms if self.call.stream else line.total_ms
        try:
            async with asyncio.timeout(line.total_ms / 1000):
                reply = await self._send(head_ms)
                self.status = reply.status
                if reply.header("content-type").startswith(EVENT_STREAM):
                    await self._begin(reply, head_ms)
                else:
                    await self._take_whole(reply)
        except TimeoutError:
            self._fail("deadline")
        except WireError as error:
            self._fail(type(error).__name__)
        except ValueError:
            self._fail("bad_endpoint")

    async def read(self) -> bytes:
        """The stream's next events for the client; `is_over` says whether they are the last."""
        assert self._chunks is not None, "only an open stream is read"
        part = b""
        while not part and not self.is_over:
            try:
                chunk = await self._chunks.__anext__()
            except StopAsyncIteration:
                self._fail("no_receipt")
            except WireError as error:
                self._fail(type(error).__name__)
            else:
                part = self._take(chunk)
        return part

    async def cancel(self) -> None:
        """Tell the miner that nobody waits for the answer any more, with the order as proof."""
        order = self.placed.order
        try:
            await self._line.http.call(
                "POST",
                f"{self._endpoint()}/v1/cancel/{order.order_id}",
                headers=(("content-type", "application/json"),),
                body=self.placed.proof(),
                deadline_ms=self._line.deadlines.cancel_wait_ms,
                body_bytes_max=CANCEL_REPLY_BYTES_MAX,
            )
        except (WireError, ValueError):
            self.failure = self.failure or "cancel_unheard"

    async def leave(self) -> None:
        """After the receipt: let the connection come to its end, so that it can be used again."""
        if self._reply is not None and self.tally.receipt is not None:
            try:
                chunks = self._reply.chunks(idle_deadline_ms=self._line.deadlines.trailer_ms)
                await chunks.__anext__()
            except (StopAsyncIteration, WireError):
                pass  # ended, or not worth keeping: leaving the stack knows which
        await self.cut()

    async def cut(self) -> None:
        """Leave the connection; an unfinished answer is cut. Twice is harmless."""
        await self._stack.aclose()

    def _endpoint(self) -> str:
        return self.instance.offer.endpoint.rstrip("/")

    async def _send(self, head_ms: int) -> StreamReply:
        """The reply's head. A connection that died unused is not the miner's failure, so the same
        order is sent once more; a miner that did see it refuses the replay.
        """
        try:
            return await self._send_once(head_ms)
        except PeerClosed as error:
            if error.after_bytes:
                raise
        return await self._send_once(head_ms)

    async def _send_once(self, head_ms: int) -> StreamReply:
        self._reply = await self._stack.enter_async_context(
            self._line.http.open_stream(
                "POST",
                f"{self._endpoint()}{self.call.path}",
                headers=(
                    ("content-type", "application/json"),
                    (ORDER_HEADER, self.placed.header),
                ),
                body=self.call.body,
                head_deadline_ms=head_ms,
            )
        )
        return self._reply

    async def _begin(self, reply: StreamReply, head_ms: int) -> None:
        if not self.call.stream or reply.status != 200:
            self._fail("unasked_stream")
            return
        self._chunks = reply.chunks(idle_deadline_ms=head_ms)
        self.first = await self.read()
        self._chunks = reply.chunks(idle_deadline_ms=self._line.deadlines.idle_ms)

    async def _take_whole(self, reply: StreamReply) -> None:
        receipt = reply.header(RECEIPT_HEADER)
        self.body = await reply.read(
            bytes_max=self._line.bounds.response_bytes_max,
            idle_deadline_ms=self._line.deadlines.idle_ms,
        )
        self.first_us = self.last_us = self._line.clock.mono_us()
        self.tally.take_whole(self.body)
        if receipt:
            self.tally.receipt = _decoded(receipt)
        self.is_over = True
        await self.cut()
        if self.call.stream and reply.status < 400:
            self._fail("no_stream")
        elif not 200 <= reply.status < 300 and not 400 <= reply.status < 500:
            self.failure = f"status_{reply.status}"

    def _take(self, chunk: bytes) -> bytes:
        now_us = self._line.clock.mono_us()
        if not self.tally.body_bytes and not self.first:
            self.first_us = now_us
        self.last_us = now_us
        part = self.tally.feed(chunk)
        if self.tally.receipt is not None:
            self.is_over = True
        elif self.tally.broken:
            self._fail("event_too_large")
        elif self.tally.body_bytes > self._line.bounds.response_bytes_max:
            self._fail("answer_too_large")
        elif now_us - self.started_us > self._line.total_ms * 1000:
            self._fail("deadline")
        return part

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.is_over = True


def _decoded(header: str) -> bytes:
    """The bytes of a base64url header; what is none, or too long, gives no receipt that parses."""
    if len(header) > 2 * WORD_BYTES_MAX:
        return b""
    try:
        return urlsafe_b64decode(header + "=" * (-len(header) % 4))
    except (NotBase64, ValueError):
        return b""
