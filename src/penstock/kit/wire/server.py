"""An HTTP/1.1 server on any asyncio transport.

One `ServerProtocol` per connection serves one exchange at a time, in order; what a client
pipelines waits in a bounded queue. It never touches a socket, so the simulator runs the same
bytes through memory.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from penstock.kit.errors import ReaderStalled
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Entropy, Listener, Network
from penstock.kit.problem import Refusal, problem
from penstock.kit.tasks import Errands, crash_recorder
from penstock.kit.wire.http import (
    Handler,
    Request,
    Response,
    Stream,
    has_body,
    response_head,
)
from penstock.kit.wire.intake import Arrived, Intake, IntakeLimits, Phase


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Every bound of a server. A deadline that passes closes the connection."""

    intake: IntakeLimits = field(default_factory=IntakeLimits)
    connections_max: int = 16_384
    pipeline_max: int = 16
    head_deadline_ms: int = 10_000
    body_deadline_ms: int = 60_000
    idle_deadline_ms: int = 75_000
    stall_deadline_ms: int = 60_000
    linger_ms: int = 1_000
    write_bytes_high: int = 256 * 1024
    cancel_deadline_ms: int = 5_000


class Server:
    """Listens on one port and hands every request to `handler`.

    The handler runs in its own task, which is cancelled when the client goes away. An exception
    in it becomes a 500 with the request's id (or a cut connection when the head was sent); a
    `Refusal` becomes its response. Each response carries `x-request-id`.
    """

    def __init__(
        self,
        network: Network,
        handler: Handler,
        *,
        entropy: Entropy,
        limits: ServerLimits | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits if limits is not None else ServerLimits()
        self.errands = Errands(crash_recorder(metrics))
        self.draining = False
        self._network = network
        self._listener: Listener | None = None
        self._connections: dict[ServerProtocol, None] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self._id_prefix = entropy(6).hex()
        self._id_next = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port in use (port 0 picks one). Raises PortTaken and other OSErrors."""
        assert self._listener is None, "a server starts once"
        self._listener = await self._network.listen(host, port, lambda: ServerProtocol(self))
        return self._listener.port

    async def close(self, drain_ms: int) -> None:
        """Stop accepting, let running exchanges finish for `drain_ms`, then cut the rest."""
        self.draining = True
        if self._listener is not None:
            await self._listener.close()
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(drain_ms / 1000):
                    await self._empty.wait()
            except TimeoutError:
                for connection in list(self._connections):
                    connection.cut()
        await self.errands.close(deadline_ms=self.limits.cancel_deadline_ms)

    def admit(self, connection: "ServerProtocol") -> bool:
        """Take a new connection in, if there is room."""
        self._connections[connection] = None
        return len(self._connections) <= self.limits.connections_max and not self.draining

    def forget(self, connection: "ServerProtocol") -> None:
        """The connection is gone."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def next_request_id(self) -> str:
        """Unique for this process's life; the random prefix tells processes apart."""
        self._id_next += 1
        return f"{self._id_prefix}-{self._id_next:x}"


class ServerProtocol(asyncio.Protocol):
    """One connection: intake -> queue -> one exchange at a time -> framing."""

    __slots__ = (
        "_answered",
        "_closing",
        "_deadline_at",
        "_gone",
        "_intake",
        "_loop",
        "_paused",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_reading",
        "_request_id",
        "_resumed",
        "_server",
        "_task",
        "_timer",
        "_transport",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._intake = Intake(server.limits.intake)
        self._transport: asyncio.Transport
        self._peer = ""
        self._queue: deque[Arrived | Response] = deque()  # a Response is a refusal, then close
        self._queued_bytes = 0
        self._reading = True
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._resumed: asyncio.Future[None] | None = None
        self._paused = False
        self._answered = False  # the running exchange's head is out
        self._closing = False
        self._request_id = ""
        self._deadline_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the high-water mark and wait for a head; refuse when there is no room."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self._server.limits.write_bytes_high)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._server.admit(self):
            self._refuse(problem(503, "connections_full", "Too many connections. Try again."))
            return
        self._watch(self._server.limits.idle_deadline_ms)

    def data_received(self, data: bytes) -> None:
        """Parse, queue what is complete, start the next exchange if none runs."""
        if self._closing:
            return  # lingering: the client must be able to finish writing to read our refusal
        intake = self._intake
        before = intake.phase
        for arrived in intake.feed(data):
            self._queue.append(arrived)
            self._queued_bytes += len(arrived.body)
        if intake.refusal is not None:
            self._queue.append(intake.refusal)
            intake.refusal = None
        if self._task is None:
            if self._queue:
                self._next()
            else:
                self._await_more(changed=before is not intake.phase)
        self._bound_queue()

    def eof_received(self) -> bool:
        """A client that closes its half has gone; the transport closes, which cancels the task."""
        return False

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what runs for this client."""
        del exc  # broken or closed, the client has gone
        self._closing = True
        self._gone.set()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
        self._server.forget(self)

    # Called by the server.

    def finish(self) -> None:
        """Close as soon as the running exchange is answered."""
        if self._task is None and not self._closing:
            self._close()

    def cut(self) -> None:
        """Close now; the client sees a broken connection."""
        self._transport.abort()

    # The exchange.

    def _next(self) -> None:
        """Take the next item of the queue; only called while no exchange runs."""
        item = self._queue.popleft()
        if isinstance(item, Response):
            self._refuse(item)
            return
        self._queued_bytes -= len(item.body)
        self._deadline_at = 0.0
        self._answered = False
        self._request_id = self._server.next_request_id()
        self._task = self._server.errands.start(
            "exchange", self._exchange(item), on_crash=self._crashed
        )

    async def _exchange(self, arrived: Arrived) -> None:
        request = Request(
            arrived.method,
            arrived.path,
            arrived.query,
            arrived.headers,
            arrived.body,
            self._peer,
            self._gone,
            self._request_id,
        )
        try:
            answer = await self._server.handler(request)
        except Refusal as refusal:
            answer = refusal.response
        keep = arrived.keep_alive and not self._server.draining
        try:
            if isinstance(answer, Response):
                self._send(arrived, answer, keep=keep)
            else:
                keep = await self._pump(arrived, answer, keep=keep)
            if self._paused:
                await self._drained()
        except ReaderStalled:
            self._transport.abort()
            return
        self._task = None
        self._after(keep=keep)

    def _after(self, *, keep: bool) -> None:
        """The exchange is answered: the next one, or wait, or close."""
        if self._closing:
            return
        if not keep or self._server.draining:
            self._close()
            return
        if self._queue:
            self._next()
        else:
            self._await_more(changed=True)
        if not self._reading and not self._over_bound():
            self._reading = True
            self._transport.resume_reading()

    def _crashed(self, error: Exception) -> None:
        """The handler (or its stream) raised; the error is already logged and counted."""
        self._task = None
        if self._closing or self._transport.is_closing():
            return
        if self._answered:
            self._transport.abort()
            return
        self._refuse(
            problem(
                500,
                "internal",
                f"A bug on our side: {type(error).__name__}. Report the request id.",
                request_id=self._request_id,
            )
        )

    def _send(self, arrived: Arrived, response: Response, *, keep: bool) -> None:
        framing = self._framing(arrived, keep=keep)
        body = response.body
        if has_body(response.status):
            framing.append(("content-length", str(len(body))))
        head = response_head(response.status, response.headers, framing)
        self._answered = True
        if arrived.method == "HEAD" or not has_body(response.status):
            body = b""
        if not self._transport.is_closing():
            self._transport.write(head + body if len(body) < 65_536 else head)
            if len(body) >= 65_536:
                self._transport.write(body)

    async def _pump(self, arrived: Arrived, stream: Stream, *, keep: bool) -> bool:
        """Write the stream as it comes; returns whether the connection can be kept."""
        chunks = stream.chunks
        try:
            chunked = stream.length is None and arrived.minor == 1
            keep = keep and (chunked or stream.length is not None)
            framing = self._framing(arrived, keep=keep)
            bodiless = not has_body(stream.status) or arrived.method == "HEAD"
            if stream.length is not None:
                framing.append(("content-length", str(stream.length)))
            elif chunked and has_body(stream.status):
                framing.append(("transfer-encoding", "chunked"))
            head = response_head(stream.status, stream.headers, framing)
            self._answered = True
            self._transport.write(head)
            if not bodiless:
                await self._pump_body(stream, chunked=chunked)
        finally:
            await _close_iterator(chunks)
        return keep

    async def _pump_body(self, stream: Stream, *, chunked: bool) -> None:
        write = self._transport.write
        sent = 0
        async for chunk in stream.chunks:
            if not chunk:
                continue
            if chunked:
                write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            else:
                sent += len(chunk)
                if stream.length is not None and sent > stream.length:
                    break
                write(chunk)
            if self._paused:
                await self._drained()
        if chunked:
            write(b"0\r\n\r\n")
        elif stream.length is not None and sent != stream.length:
            raise ValueError(f"a stream of {stream.length} bytes gave {sent}")

    async def _drained(self) -> None:
        """Wait until the client has read; raises ReaderStalled after the deadline."""
        deadline_ms = self._server.limits.stall_deadline_ms
        self._resumed = self._loop.create_future()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await self._resumed
        except TimeoutError as error:
            raise ReaderStalled(deadline_ms) from error
        finally:
            self._resumed = None

    def _framing(self, arrived: Arrived, *, keep: bool) -> list[tuple[str, str]]:
        framing = [("x-request-id", self._request_id)]
        if not keep:
            framing.append(("connection", "close"))
        elif not arrived.minor:
            framing.append(("connection", "keep-alive"))
        return framing

    # Ending.

    def _refuse(self, response: Response) -> None:
        """Answer without a handler, then close so that the client can still read the answer."""
        framing = [
            ("x-request-id", self._request_id or self._server.next_request_id()),
            ("connection", "close"),
            ("content-length", str(len(response.body))),
        ]
        self._transport.write(
            response_head(response.status, response.headers, framing) + response.body
        )
        self._queue.clear()
        self._closing = True
        if not self._transport.can_write_eof():
            self._close()
            return
        # Closing a socket with unread bytes resets it, and a reset can overtake our answer.
        self._transport.write_eof()
        self._resume_reading()
        self._watch(self._server.limits.linger_ms)

    def _close(self) -> None:
        """Close after what is written has been read, or after the stall deadline."""
        self._closing = True
        self._queue.clear()
        self._transport.close()
        self._watch(self._server.limits.stall_deadline_ms)

    # Bounds and deadlines.

    def _over_bound(self) -> bool:
        limits = self._server.limits
        return (
            len(self._queue) >= limits.pipeline_max
            or self._queued_bytes > limits.intake.body_bytes_max
        )

    def _bound_queue(self) -> None:
        if self._reading and not self._closing and self._over_bound():
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _await_more(self, *, changed: bool) -> None:
        """Between exchanges: say 100 if the client waits for it, and set the phase's deadline."""
        intake = self._intake
        if intake.continue_wanted:
            intake.continue_wanted = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not changed:
            return
        limits = self._server.limits
        match intake.phase:
            case Phase.HEAD:
                self._watch(limits.head_deadline_ms)
            case Phase.BODY:
                self._watch(limits.body_deadline_ms)
            case Phase.BETWEEN:
                self._watch(limits.idle_deadline_ms)
            case Phase.REFUSED:
                pass

    def _watch(self, deadline_ms: int) -> None:
        """Close the connection in `deadline_ms` unless an exchange starts or this is called again.

        A timer that is already set is left alone and looks again when it fires: a timer per
        request would cost more than parsing the request.
        """
        if self._transport.is_closing() and not self._closing:
            return
        self._deadline_at = self._loop.time() + deadline_ms / 1000
        if self._timer is not None:
            if self._timer.when() <= self._deadline_at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._deadline_at:
            return
        if self._loop.time() < self._deadline_at:
            self._timer = self._loop.call_at(self._deadline_at, self._look)
        elif self._closing or self._intake.phase is Phase.BETWEEN:
            self._transport.abort()
        else:
            self._refuse(
                problem(408, "request_timeout", "The request did not arrive in time. Try again.")
            )


async def _close_iterator(chunks: AsyncIterator[bytes]) -> None:
    """Run an async generator's `finally`; other iterators have nothing to close."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
