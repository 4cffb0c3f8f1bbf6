"""The server's end of one connection: intake, queue, one exchange at a time, deadlines.

What a client pipelines waits in a bounded queue and is answered in order. A client that goes away,
also one that closes only its half, ends the exchange that runs for it.
"""

import asyncio
from typing import assert_never, cast

from penstock.kit.tasks import Errands
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Request, Response, answer_head, encode_fields
from penstock.kit.wire.intake import Arrived, Intake, Item, Phase
from penstock.kit.wire.owner import Owner
from penstock.kit.wire.problem import problem
from penstock.kit.wire.upload import Upload


class ServerProtocol(asyncio.Protocol):
    """One connection of a `Server`; the `Carrier` of its exchanges."""

    __slots__ = (
        "_closing",
        "_exchange",
        "_held_bytes",
        "_intake",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_reading",
        "_running_bytes",
        "_served",
        "_server",
        "_starting",
        "_upload",
        "deadline_at",
        "deadline_slot",
        "is_full",
        "transport",
    )

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._intake = Intake(server.limits.intake, heads=server.heads, streams=server.is_streamed)
        self.transport: asyncio.Transport
        self.is_full = False  # the client reads slower than we write
        self._peer = ""
        self._queue: list[Item | Response] = []  # a Response is a refusal, then close
        self._queued_bytes = 0
        self._running_bytes = 0
        self._held_bytes = 0  # what the server counts for this connection
        self._reading = True
        self._exchange: Exchange | None = None  # the one that runs
        self._upload: Upload | None = None  # the streamed body that is arriving
        self._served = False  # a request came
        self._starting = False  # inside `_go_on`
        self._closing = False  # nothing more is read or answered
        self.deadline_at = 0.0  # 0 while an exchange runs: handlers have their own deadlines
        self.deadline_slot = -1  # of `Deadlines`

    @property
    def errands(self) -> Errands:
        """Where the exchanges' coroutines run."""
        return self._server.errands

    @property
    def draining(self) -> bool:
        """No connection is kept any more."""
        return self._server.draining

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the high-water mark and wait for a head; refuse when there is no room."""
        limits = self._server.limits
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        self.transport.set_write_buffer_limits(high=limits.write_bytes_high)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        if self._server.admit(self):
            draining = self._server.draining  # accepted before the listener closed: served still
            self._watch(limits.linger_ms if draining else limits.idle_deadline_ms)
        else:
            self.refuse(
                problem(503, "connections_full", "There are too many connections. Try again soon.")
            )

    def data_received(self, data: bytes) -> None:
        """Parse, and start what is complete: at once if nothing else runs, else in its turn."""
        if self._closing:
            return  # lingering: the client must be able to finish writing to read our refusal
        intake = self._intake
        before = intake.phase
        items = intake.feed(data)
        if (
            len(items) == 1
            and intake.phase is Phase.BETWEEN
            and self._exchange is None
            and not self._queue
            and not self.is_full
            and type(items[0]) is Arrived
        ):
            if self._held_bytes:
                self._count_held()  # its body arrived in pieces, which were counted
            self._start(items[0])  # nearly every request comes alone
            return
        for item in items:
            self._queue.append(item)
            self._queued_bytes += _size(item)
        self._count_held()
        server = self._server
        if intake.held_bytes and server.held_bytes > server.limits.bodies_bytes_max:
            intake.turn_away(
                problem(503, "bodies_full", "Too much is being sent here at once. Try again soon.")
            )
            self._count_held()
        if intake.refusal is not None:
            self._queue.append(intake.refusal)
            intake.refusal = None
        self._go_on(changed=before is not intake.phase)

    def eof_received(self) -> bool:
        """A client that closes its half has gone; the transport closes, which ends the exchange."""
        return False

    def pause_writing(self) -> None:
        """The client reads slower than we write; it has until the stall deadline to catch up."""
        self.is_full = True
        self._watch(self._server.limits.stall_deadline_ms)

    def resume_writing(self) -> None:
        """The client caught up."""
        self.is_full = False
        if self._closing:
            return
        exchange = self._exchange
        if exchange is None:
            self._go_on(changed=True)
            return
        self.deadline_at = 0.0
        if exchange.on_writable is not None:
            exchange.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what runs for this client."""
        del exc  # broken or closed, the client has gone
        self._closing = True
        self._queue.clear()
        self._queued_bytes = self._running_bytes = 0
        self._server.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._server.deadlines.drop(self)
        self._server.forget(self)
        exchange, self._exchange = self._exchange, None
        if self._upload is not None:
            self._upload.lose()
        if exchange is not None:
            exchange.left()

    # Called by the server.

    def finish(self) -> None:
        """Close as soon as what has begun is answered.

        A connection on which no request ever came may have one on its way, and a request that is
        arriving is nearly here: both have a moment more.
        """
        if self._exchange is not None or self._closing:
            return
        limits = self._server.limits
        if not self._served or self._intake.phase is not Phase.BETWEEN:
            self._watch(limits.linger_ms)
        elif limits.drain_idle_ms:
            self._watch(limits.drain_idle_ms)
        else:
            self._close()

    def cut(self) -> None:
        """Close now; the client sees a broken connection."""
        self.transport.abort()

    # Called by the exchange.

    def over(self, *, keep: bool) -> None:
        """The running exchange is answered: the next one, or wait, or close."""
        self._exchange = None
        if self._closing:
            return
        server = self._server
        server.held_bytes -= self._running_bytes
        self._held_bytes -= self._running_bytes
        self._running_bytes = 0
        upload, self._upload = self._upload, None
        if upload is not None and not upload.ended:
            self._linger()  # answered without its whole body; nobody wants the rest
        elif not keep or server.draining:
            self._close()
        elif self._queue or self.is_full or self._intake.phase is not Phase.BETWEEN:
            self._go_on(changed=True)
        else:
            self._watch(server.limits.idle_deadline_ms)

    def refuse(self, response: Response, request_id: str = "") -> None:
        """Answer without a handler, then close so that the client can still read the answer."""
        self._exchange = None
        if self._closing or self.transport.is_closing():
            return
        request_id = request_id or self._server.next_request_id()
        response = self._server.refused(response, self._intake.path, request_id=request_id)
        fields = encode_fields(response.headers)
        framing = f"connection: close\r\ncontent-length: {len(response.body)}\r\n"
        head = answer_head(response.status, fields, request_id=request_id, framing=framing)
        self.transport.write(head + response.body)
        self._linger()

    # Exchanges.

    def _start(self, arrived: Arrived) -> None:
        """Begin the exchange of a request; only called while no other runs."""
        head, body, server = arrived.head, arrived.body, self._server
        self.deadline_at = 0.0
        self._served = True
        request = Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            body or b"",
            self._peer,
            server.next_request_id(),
        )
        exchange = self._exchange = Exchange(self, request, minor=head.minor, keep=head.keep_alive)
        if body is None:
            self._upload = exchange.upload = Upload(
                self._bound_reading, length=None if head.chunked else arrived.length
            )
            self._watch(server.limits.body_deadline_ms)
            self._say_continue()
        else:
            size = len(body)
            self._running_bytes = size
            server.held_bytes += size
            self._held_bytes += size
        server.serve(exchange)

    def _go_on(self, *, changed: bool) -> None:
        """Take from the queue what can be taken; wait for more if nothing runs after that."""
        if self._starting:
            return
        self._starting = True
        try:
            while self._queue and not self._closing and self._take(self._queue[0]):
                pass
        finally:
            self._starting = False
        if self._exchange is None and not self._closing and not self.is_full:
            self._await_more(changed=changed)
        self._bound_reading()

    def _take(self, item: Item | Response) -> bool:
        """Take the first item of the queue, if its turn has come."""
        if isinstance(item, bytes):
            self._upload_part(item)
        elif self._exchange is not None or self.is_full:
            if self._upload is not None and isinstance(item, Response):
                self.transport.abort()  # the framing of the body that is being read is broken
            return False
        elif isinstance(item, Response):
            self.refuse(item)
            return False
        else:
            self._unqueue()
            self._start(item)
            return True
        self._unqueue()
        return True

    def _unqueue(self) -> None:
        size = _size(self._queue.pop(0))
        self._queued_bytes -= size
        self._held_bytes -= size
        self._server.held_bytes -= size

    def _upload_part(self, part: bytes) -> None:
        assert self._upload is not None, "a body that is streamed belongs to an exchange"
        self._upload.put(part)
        if part:
            self._watch(self._server.limits.body_deadline_ms)
        else:
            self.deadline_at = 0.0

    # Ending.

    def _linger(self) -> None:
        """Close our half, and let the client finish writing for a moment.

        Closing a socket with unread bytes resets it, and a reset can overtake our answer.
        """
        self._queue.clear()
        if not self.transport.can_write_eof():
            self._close()
            return
        self._closing = True
        self.transport.write_eof()
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        self._watch(self._server.limits.linger_ms)

    def _close(self) -> None:
        """Close after what is written has been read, or after the stall deadline."""
        self._closing = True
        self._queue.clear()
        self.transport.close()
        self._watch(self._server.limits.stall_deadline_ms)

    # Bounds and deadlines.

    def _count_held(self) -> None:
        """Tell the server how much of bodies is held for this connection now."""
        held = self._intake.held_bytes + self._queued_bytes + self._running_bytes
        self._server.held_bytes += held - self._held_bytes
        self._held_bytes = held

    def _bound_reading(self) -> None:
        """Read on only while there is room for what comes."""
        if self._closing:
            return
        limits = self._server.limits
        upload = self._upload
        stopped = upload is not None and upload.is_full
        reading = not (
            stopped
            or len(self._queue) >= limits.pipeline_max
            or self._queued_bytes > limits.intake.body_bytes_max
        )
        if reading == self._reading:
            return
        self._reading = reading
        if reading:
            self.transport.resume_reading()
            if upload is not None and not upload.ended:
                self._watch(limits.body_deadline_ms)
        else:
            self.transport.pause_reading()
            if stopped:
                self.deadline_at = 0.0  # it is the reader of the body that is slow

    def _await_more(self, *, changed: bool) -> None:
        """Between exchanges: say 100 if the client waits for it, and set the phase's deadline."""
        self._say_continue()
        if not changed:
            return
        limits = self._server.limits
        match self._intake.phase:
            case Phase.BETWEEN | Phase.REFUSED:
                self._watch(limits.idle_deadline_ms)
            case Phase.HEAD:
                self._watch(limits.head_deadline_ms)
            case Phase.BODY:
                self._watch(limits.body_deadline_ms)
            case never:
                assert_never(never)

    def _say_continue(self) -> None:
        """The client waits for a word before it sends its body (RFC 9110 10.1.1)."""
        if self._intake.continue_wanted:
            self._intake.continue_wanted = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _watch(self, deadline_ms: int) -> None:
        """End the connection in `deadline_ms` unless an exchange starts or this is called again."""
        deadlines = self._server.deadlines
        self.deadline_at = at = deadlines.now() + deadline_ms / 1000
        deadlines.watch(self, at)

    def look(self) -> None:
        """A deadline may have passed."""
        if not self.deadline_at:
            return
        if self._server.deadlines.now() < self.deadline_at:
            self._server.deadlines.watch(self, self.deadline_at)
        elif self._closing or self.is_full or self._exchange is not None:
            self.transport.abort()
        elif self._intake.phase is Phase.BETWEEN:
            self._close()
        else:
            self.refuse(
                problem(408, "request_timeout", "The request did not arrive in time. Try again.")
            )


def _size(item: Item | Response) -> int:
    """What an item of the queue holds."""
    if isinstance(item, bytes):
        return len(item)
    return len(item.body) if item.body is not None else 0
