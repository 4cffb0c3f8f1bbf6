"""The server's end of one connection: intake, queue, one exchange at a time, deadlines.

What a client pipelines waits in a bounded queue and is answered in order. A client that goes away
cancels the exchange that runs for it.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

from penstock.kit.errors import ReaderStalled
from penstock.kit.tasks import Errands
from penstock.kit.wire.http import Handler, Request, Response
from penstock.kit.wire.intake import Arrived, Intake, Phase
from penstock.kit.wire.limits import ServerLimits
from penstock.kit.wire.outlet import Outlet
from penstock.kit.wire.problem import Refusal, problem


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: ServerLimits
    errands: Errands
    draining: bool
    held_bytes: int

    def admit(self, connection: "ServerProtocol") -> bool:
        """Take a new connection in, if there is room."""
        ...

    def forget(self, connection: "ServerProtocol") -> None:
        """The connection is gone."""
        ...

    def refused(self, status: int) -> None:
        """A connection ends with an answer that no handler gave."""
        ...

    def next_request_id(self) -> str:
        """A fresh id."""
        ...


class ServerProtocol(asyncio.Protocol):
    """One connection of a `Server`."""

    __slots__ = (
        "_closing",
        "_deadline_at",
        "_gone",
        "_held_bytes",
        "_intake",
        "_loop",
        "_out",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_reading",
        "_request_id",
        "_running_bytes",
        "_server",
        "_task",
        "_timer",
        "_transport",
    )

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._intake = Intake(server.limits.intake)
        self._transport: asyncio.Transport
        self._out: Outlet
        self._peer = ""
        self._queue: deque[Arrived | Response] = deque()  # a Response is a refusal, then close
        self._queued_bytes = 0
        self._running_bytes = 0
        self._held_bytes = 0  # what the server counts for this connection
        self._reading = True
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._closing = False  # nothing more is read or answered
        self._request_id = ""
        self._deadline_at = 0.0  # 0 while an exchange runs: handlers have their own deadlines
        self._timer: asyncio.TimerHandle | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the high-water mark and wait for a head; refuse when there is no room."""
        limits = self._server.limits
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        self._out = Outlet(self._transport, stall_deadline_ms=limits.stall_deadline_ms)
        self._transport.set_write_buffer_limits(high=limits.write_bytes_high)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        if self._server.admit(self):
            self._watch(limits.idle_deadline_ms)
        else:
            self._refuse(
                problem(503, "connections_full", "There are too many connections. Try again soon.")
            )

    def data_received(self, data: bytes) -> None:
        """Parse, queue what is complete, start the next exchange if none runs."""
        if self._closing:
            return  # lingering: the client must be able to finish writing to read our refusal
        intake = self._intake
        before = intake.phase
        for arrived in intake.feed(data):
            self._queue.append(arrived)
            self._queued_bytes += len(arrived.body)
        self._count_held(intake.held_bytes)
        if intake.held_bytes and self._server.held_bytes > self._server.limits.bodies_bytes_max:
            intake.turn_away(
                problem(503, "bodies_full", "Too much is being sent here at once. Try again soon.")
            )
            self._count_held(0)
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
        self._out.pause()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._out.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what runs for this client."""
        del exc  # broken or closed, the client has gone
        self._closing = True
        self._gone.set()
        self._queue.clear()
        self._queued_bytes = self._running_bytes = 0
        self._count_held(0)
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
        self._deadline_at = 0.0
        self._out.answered = False
        self._request_id = self._server.next_request_id()
        if isinstance(item, Response):
            self._refuse(item)
            return
        self._queued_bytes -= len(item.body)
        self._running_bytes = len(item.body)
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
            keep = await self._answer(arrived, request)
        except ReaderStalled:
            self._transport.abort()
            return
        except asyncio.CancelledError:
            self._transport.abort()  # also when the handler cancelled itself: nobody will answer
            raise
        self._task = None
        self._running_bytes = 0
        self._count_held(self._intake.held_bytes)
        self._after(keep=keep)

    async def _answer(self, arrived: Arrived, request: Request) -> bool:
        """Run the handler and write its answer; returns whether the connection can be kept."""
        try:
            answer = await self._server.handler(request)
        except Refusal as refusal:
            answer = refusal.response
        keep = arrived.keep_alive and not self._server.draining
        out = self._out
        if isinstance(answer, Response):
            out.send(arrived, answer, request_id=request.request_id, keep=keep)
        else:
            keep = await out.pump(arrived, answer, request_id=request.request_id, keep=keep)
        await out.drained()
        return keep

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
        if not self._over_bound():
            self._resume_reading()

    def _crashed(self, error: Exception) -> None:
        """The handler (or its stream) raised; the error is already logged and counted."""
        self._task = None
        if self._closing or self._transport.is_closing():
            return
        if self._out.answered:
            self._transport.abort()
            return
        self._refuse(
            problem(
                500,
                "internal",
                f"A bug on our side ({type(error).__name__}). Please report the request id.",
                request_id=self._request_id,
            )
        )

    # Ending.

    def _refuse(self, response: Response) -> None:
        """Answer without a handler, then close so that the client can still read the answer."""
        self._server.refused(response.status)
        self._out.send_last(response, request_id=self._request_id or self._server.next_request_id())
        self._queue.clear()
        if not self._transport.can_write_eof():
            self._close()
            return
        # Closing a socket with unread bytes resets it, and a reset can overtake our answer. So
        # close our half, and let the client finish writing for a moment.
        self._closing = True
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

    def _count_held(self, arriving_bytes: int) -> None:
        """Tell the server how much of bodies is held for this connection now."""
        held = arriving_bytes + self._queued_bytes + self._running_bytes
        self._server.held_bytes += held - self._held_bytes
        self._held_bytes = held

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
            self._out.send_continue()
        if not changed:
            return
        limits = self._server.limits
        match intake.phase:
            case Phase.HEAD:
                self._watch(limits.head_deadline_ms)
            case Phase.BODY:
                self._watch(limits.body_deadline_ms)
            case Phase.BETWEEN | Phase.REFUSED:
                self._watch(limits.idle_deadline_ms)

    def _watch(self, deadline_ms: int) -> None:
        """End the connection in `deadline_ms` unless an exchange starts or this is called again.

        A timer that fires early looks again instead of being set anew: a timer per request would
        cost more than parsing the request.
        """
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
        elif self._closing:
            self._transport.abort()
        elif self._intake.phase is Phase.BETWEEN:
            self._close()
        else:
            self._refuse(
                problem(408, "request_timeout", "The request did not arrive in time. Try again.")
            )
