"""One request and its answer, as a hot handler is given it: by callbacks, without a task.

A hot handler is a plain function. It is called in the moment the request's body is complete, with
the `Exchange`, and answers at once, later from another callback, or not at all when it hands the
exchange on to a coroutine (`hand_to`). The coroutines of every other route run on the same class,
so there is one way an answer reaches a client.

Whoever answers may go on calling after the client has left: what is written then goes nowhere.
"""

import asyncio
import enum
from collections.abc import Callable, Coroutine
from typing import Protocol

from penstock.kit.tasks import Errands
from penstock.kit.wire.http import (
    Handler,
    Headers,
    Request,
    Response,
    Stream,
    answer_head,
    encode_fields,
    has_body,
)
from penstock.kit.wire.problem import Refusal, problem
from penstock.kit.wire.upload import Upload

# Below this a head and its body go out in one piece; above, joining them costs more than a call.
_JOIN_BYTES_MAX = 65_536
# Owed of a body that ends with the connection.
_ENDLESS = 1 << 62
_ENDLESS_LEFT = 1 << 61

HotHandler = Callable[["Exchange"], None]
"""It must not block and not raise; what it raises is answered with a 500 (or cuts the stream)."""


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    is_full: bool

    @property
    def errands(self) -> Errands:
        """Where coroutines run that nobody awaits."""
        ...

    @property
    def draining(self) -> bool:
        """No connection is kept any more."""
        ...

    def over(self, *, keep: bool) -> None:
        """The running exchange is answered; `keep`: the connection can carry another."""
        ...

    def refuse(self, response: Response, request_id: str = "") -> None:
        """Answer instead of the handler, then close."""
        ...


class _Stage(enum.Enum):
    ASKED = "asked"
    STREAM = "stream"
    OVER = "over"


class _Framing(enum.Enum):
    CHUNKED = "chunked"
    PLAIN = "plain"  # by a length that was announced, or by the connection's end
    NONE = "none"  # the answer has no body, whatever is written


_ASKED, _STREAM, _OVER = _Stage.ASKED, _Stage.STREAM, _Stage.OVER
_CHUNKED, _PLAIN, _NONE = _Framing.CHUNKED, _Framing.PLAIN, _Framing.NONE


class Exchange:
    """Answer it once: `respond`, or `open_stream`, `write`..., `close_stream`; or `hand_to`."""

    __slots__ = (
        "_carrier",
        "_framing",
        "_keep",
        "_left",
        "_minor",
        "_room",
        "_stage",
        "on_gone",
        "on_writable",
        "request",
        "upload",
    )

    def __init__(self, carrier: Carrier, request: Request, *, minor: int, keep: bool) -> None:
        self.request = request
        self.on_gone: Callable[[], None] | None = None
        """Called once if the client leaves before the answer's end; nothing is called after it."""
        self.on_writable: Callable[[], None] | None = None
        """Called when `is_full` has become False again."""
        self.upload: Upload | None = None
        """The body, if it is read while it arrives; then `request.body` is empty."""
        self._carrier = carrier
        self._minor = minor  # the client's HTTP/1.x
        self._keep = keep
        self._stage = _ASKED
        self._framing = _NONE
        self._room: asyncio.Future[None] | None = None  # somebody waits in `drained`
        self._left = 0  # bytes still owed of an announced length

    @property
    def is_full(self) -> bool:
        """The client reads slower than we write: pause the source until `on_writable`."""
        return self._carrier.is_full

    @property
    def is_over(self) -> bool:
        """Answered to the end, cut, or left by the client."""
        return self._stage is _OVER

    @property
    def is_open(self) -> bool:
        """The head of a stream is out, its end is not."""
        return self._stage is _STREAM

    @property
    def http_version(self) -> str:
        """The client's."""
        return f"1.{self._minor}"

    def respond(self, response: Response) -> None:
        """A whole answer, in one write. Raises ValueError for a header that would split it."""
        self.respond_encoded(response.status, encode_fields(response.headers), response.body)

    def respond_encoded(self, status: int, fields: bytes, body: bytes) -> None:
        """`respond` with header lines that `encode_fields` made before."""
        if self._stage is not _ASKED:
            assert self._stage is _OVER, "an exchange is answered once"
            return
        carrier = self._carrier
        keep = self._keep and not carrier.draining
        framing = f"content-length: {len(body)}\r\n"
        if not has_body(status):
            framing, body = "", b""
        elif self.request.method == "HEAD":
            body = b""
        head = self._head(status, fields, framing=framing, keep=keep)
        self._end()
        if len(body) < _JOIN_BYTES_MAX:
            carrier.transport.write(head + body)
        else:
            carrier.transport.writelines((head, body))
        carrier.over(keep=keep)

    def open_stream(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """The head of an answer whose body follows in pieces.

        Without `length` the body goes out chunked (to an HTTP/1.0 client until the connection's
        end); with it, unframed, and it must be exactly that many bytes. Raises ValueError for a
        header that would split the head.
        """
        self.open_encoded(status, encode_fields(headers), length=length)

    def open_encoded(self, status: int, fields: bytes, *, length: int | None = None) -> None:
        """`open_stream` with header lines that `encode_fields` made before."""
        if self._stage is not _ASKED:
            assert self._stage is _OVER, "an exchange is answered once"
            return
        self._keep = self._keep and not self._carrier.draining
        framing = ""
        if has_body(status):
            if length is not None:
                self._framing, self._left = _PLAIN, length
                framing = f"content-length: {length}\r\n"
            elif self._minor:
                self._framing = _CHUNKED
                framing = "transfer-encoding: chunked\r\n"
            else:
                self._framing, self._left = _PLAIN, _ENDLESS
                self._keep = False
        head = self._head(status, fields, framing=framing, keep=self._keep)
        if self.request.method == "HEAD":
            self._framing = _NONE
        self._stage = _STREAM
        self._carrier.transport.write(head)

    def write(self, data: bytes) -> None:
        """Body bytes of the stream; they leave at once. Raises ValueError beyond the length."""
        if self._stage is not _STREAM or not data:
            assert self._stage is not _ASKED, "open the stream first"
            return
        if self._framing is _CHUNKED:
            self._carrier.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif self._framing is _PLAIN:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError(f"a stream is {-self._left} bytes longer than its length")
            self._carrier.transport.write(data)

    def close_stream(self, last: bytes = b"") -> None:
        """The end of the stream, with its last bytes. Raises ValueError short of the length."""
        if self._stage is not _STREAM:
            assert self._stage is _OVER, "open the stream first"
            return
        carrier = self._carrier
        if self._framing is _CHUNKED:
            if last:
                carrier.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
            else:
                carrier.transport.write(b"0\r\n\r\n")
        elif self._framing is _PLAIN:
            self.write(last)
            if 0 < self._left < _ENDLESS_LEFT:
                raise ValueError(f"a stream is {self._left} bytes short of its length")
        self._end()
        carrier.over(keep=self._keep)

    def cut(self) -> None:
        """Break the connection: the client sees that the answer is not whole."""
        if self._stage is not _OVER:
            self._end()
            self._carrier.transport.abort()

    def hand_to(self, handler: Handler) -> None:
        """Let a coroutine answer; it is cancelled when the client leaves."""
        self.run(self._answer(handler))

    def run(self, answering: Coroutine[object, object, None]) -> None:
        """Start a coroutine that answers by this exchange; cancelled when the client leaves."""
        task = self._carrier.errands.start(
            "exchange", self._cut_if_cancelled(answering), on_crash=self.crashed
        )

        def gone() -> None:
            task.cancel()

        self.on_gone = gone

    async def drained(self) -> None:
        """Wait until the client has read enough or has left; its stall deadline bounds that."""
        if not self.is_full or self._stage is _OVER:
            return
        room = self._room = asyncio.get_running_loop().create_future()
        self.on_writable = self._wake
        try:
            await room
        finally:
            self._room = self.on_writable = None

    # Called by the connection.

    def left(self) -> None:
        """The client has gone."""
        if self._stage is _OVER:
            return
        gone = self.on_gone
        self._end()
        self._wake()
        if gone is not None:
            gone()

    def crashed(self, error: Exception) -> None:
        """The handler raised; the error is already logged and counted."""
        if self._stage is _STREAM:
            self.cut()
        elif self._stage is _ASKED:
            self._end()
            self._carrier.refuse(
                problem(
                    500,
                    "internal",
                    f"A bug on our side ({type(error).__name__}). Please report the request id.",
                    request_id=self.request.request_id,
                ),
                self.request.request_id,
            )

    # Inside.

    def _head(self, status: int, fields: bytes, *, framing: str, keep: bool) -> bytes:
        if not keep:
            framing = f"connection: close\r\n{framing}"
        elif not self._minor:
            framing = f"connection: keep-alive\r\n{framing}"
        return answer_head(status, fields, request_id=self.request.request_id, framing=framing)

    async def _cut_if_cancelled(self, answering: Coroutine[object, object, None]) -> None:
        try:
            await answering
        except asyncio.CancelledError:
            self.cut()  # also when the handler cancelled itself: nobody will answer
            raise

    async def _answer(self, handler: Handler) -> None:
        """Run the handler and write its answer."""
        try:
            answer = await handler(self.request)
        except Refusal as refusal:
            answer = refusal.response
        if isinstance(answer, Response):
            self.respond(answer)
        else:
            await self._pump(answer)

    async def _pump(self, stream: Stream) -> None:
        """Write a stream as it comes; its iterator is closed in every case."""
        try:
            self.open_stream(stream.status, stream.headers, length=stream.length)
            if self._framing is not _NONE:
                async for chunk in stream.chunks:
                    self.write(chunk)
                    if self.is_full:
                        await self.drained()
            self.close_stream()
        finally:
            close = getattr(stream.chunks, "aclose", None)
            if close is not None:  # an async generator's `finally`; others have nothing to close
                await close()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _end(self) -> None:
        """Callbacks hold their owner, which holds us: let go of them."""
        self._stage = _OVER
        self.on_gone = self.on_writable = None
