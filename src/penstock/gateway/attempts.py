"""One order at one instance: sent, and what comes back, by callbacks of its connection.

An attempt never raises for what a miner does: it ends with `failure` set, and whoever asked decides
what comes next. It sees every byte once and counts it in its tally.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from penstock.gateway.bodies import Call
from penstock.gateway.config import Bounds, Deadlines
from penstock.gateway.gathering import Gathering
from penstock.gateway.instances import Instance
from penstock.gateway.leases import Hold
from penstock.gateway.orders import Placed
from penstock.gateway.sessions import JSON, Peer
from penstock.gateway.tally import Tally, decoded_word
from penstock.kit.errors import PeerClosed, WireError
from penstock.kit.ports import Clock
from penstock.kit.tasks import Errands
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.link import Link
from penstock.spec.stream import RECEIPT_HEADER

EVENT_STREAM = b"text/event-stream"
JSON_TYPE = b"application/json"
CANCEL_REPLY_BYTES_MAX = 65_536
SESSION_UNKNOWN = b'"session_unknown"'
_RECEIPT = RECEIPT_HEADER.encode()


class Owner(Protocol):
    """Who waits for an attempt."""

    def came(self, attempt: "Attempt", part: bytes) -> None:
        """Whole events of a stream, for the client."""
        ...

    def over(self, attempt: "Attempt") -> None:
        """It has ended, one way or the other; `tail` are the stream's last events. Once."""
        ...


@dataclass(slots=True, eq=False)
class Line:
    """What an attempt needs of the world. `trailing` are connections whose answer is here and whose
    end is not: they get until the given moment to become usable again.
    """

    http: HttpClient
    clock: Clock
    errands: Errands
    deadlines: Deadlines
    bounds: Bounds
    total_ms: int
    gathering: Gathering
    trailing: dict["Attempt", int] = field(default_factory=dict)

    def sweep(self, now_us: int) -> None:
        """Cut those that took too long."""
        for attempt in [one for one, due_us in self.trailing.items() if now_us >= due_us]:
            attempt.cut()


class Attempt:
    """One order on its way: `send` it, then hear from it through its owner."""

    __slots__ = (
        "_bytes_max",
        "_is_again",
        "_is_resting",
        "_line",
        "_link",
        "_owner",
        "_parts",
        "_receipt",
        "_size",
        "body",
        "call",
        "content_type",
        "due_us",
        "failure",
        "first_us",
        "heard_us",
        "hold",
        "instance",
        "is_over",
        "is_paused",
        "is_sent",
        "is_streaming",
        "last_us",
        "peer",
        "placed",
        "started_us",
        "status",
        "tail",
        "tally",
        "trace",
    )

    def __init__(
        self,
        line: Line,
        owner: Owner,
        *,
        call: Call,
        placed: Placed,
        instance: Instance,
        hold: Hold,
    ) -> None:
        self._bytes_max = line.bounds.response_bytes_max
        self._line = line
        self._owner: Owner | None = owner
        self._link: Link | None = None
        self._is_again = self._is_resting = False
        self._parts: list[bytes] = []
        self._size = 0
        self._receipt = self.body = self.tail = b""
        self.call = call
        self.placed = placed
        self.instance = instance
        self.hold = hold
        self.peer: Peer | None = None
        self.trace = b""  # header lines that continue the caller's trace
        self.tally = Tally()
        self.status = 0
        self.content_type = JSON_TYPE
        self.failure = ""
        self.is_sent = self.is_over = False
        self.is_streaming = self.is_paused = False
        self.due_us = 0
        """When it is ended whatever it does; 0: its deadlines are the usual ones."""
        self.started_us = self.first_us = self.last_us = self.heard_us = line.clock.mono_us()
        instance.started()

    @property
    def is_error(self) -> bool:
        """The engine (or the miner) answered with an error status."""
        return self.status >= 400

    @property
    def is_refusal(self) -> bool:
        """The miner turned the order away; whoever has begun an answer can refuse no more."""
        return self.status == HTTPStatus.SERVICE_UNAVAILABLE

    @property
    def is_session_lost(self) -> bool:
        """The miner has forgotten the session, and says so instead of an answer."""
        return (
            self.status == HTTPStatus.UNAUTHORIZED
            and self.placed.session is not None
            and self.tally.receipt is None
            and SESSION_UNKNOWN in self.body
        )

    # Called by whoever asks.

    def send(self, peer: Peer | None, content_type: bytes = JSON_TYPE) -> None:
        """Write the order and the request; without a resting connection, dial first. `peer` is None
        for an endpoint that leads nowhere.
        """
        self.peer = peer
        if peer is None:
            self._fail("bad_endpoint")
            return
        self.content_type = content_type
        link = self._line.http.idle_link(peer.key)
        if link is not None:
            self._write(link)
        else:
            self._dial()

    def cancel(self) -> None:
        """Tell the miner that nobody waits for the answer any more, with the order as proof, and hear
        its last words for a while. An order that was never written is over at once.
        """
        self.due_us = self._line.clock.mono_us() + self._line.deadlines.cancel_wait_ms * 1000
        if not self.is_sent:
            self._fail("never_sent")
            return
        self.resume()
        self._line.errands.start("cancel", self._say_cancel())

    def hand_over(self, owner: Owner) -> None:
        """Somebody else waits for it from now on."""
        self._owner = owner

    def give_up(self, reason: str) -> None:
        """End it as it is."""
        self._fail(reason)

    def pause(self) -> None:
        """Whoever reads is slower than the miner writes."""
        if self._link is not None and not self.is_paused:
            self.is_paused = True
            self._link.pause()

    def resume(self) -> None:
        """The reader caught up."""
        if self.is_paused:
            self.is_paused = False
            self.heard_us = self._line.clock.mono_us()
            if self._link is not None and not self._is_resting:
                self._link.resume()

    def read_on(self) -> None:
        """A fast stream has rested between two reads (gathering.py)."""
        self._is_resting = False
        if self._link is not None and not self.is_paused:
            self._link.resume()

    def check_deadlines(self, now_us: int) -> None:
        """End it if it waits for too long."""
        if self.is_over:
            return
        deadlines = self._line.deadlines
        if self.due_us:
            if now_us >= self.due_us:
                self._fail("cancelled")
        elif now_us - self.started_us > self._line.total_ms * 1000:
            self._fail("deadline")
        elif self.is_paused:
            return
        elif self.tally.body_bytes or self._size:
            if now_us - self.heard_us > deadlines.idle_ms * 1000:
                self._fail("DeadlinePassed")
        elif self.call.stream and now_us - self.started_us > deadlines.head_ms * 1000:
            self._fail("DeadlinePassed")

    def cut(self) -> None:
        """Leave the connection; an unfinished answer is cut. Twice is harmless."""
        self._line.trailing.pop(self, None)
        link, self._link = self._link, None
        if link is not None:
            link.abort()

    # Called by the connection.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The reply's head: a stream, or an answer in one piece."""
        self.status = status
        self.heard_us = self._line.clock.mono_us()
        content_type = headers.get(b"content-type", b"")
        if content_type.startswith(EVENT_STREAM):
            if not self.call.stream or status != 200:
                self._fail("unasked_stream")
                return
            self.is_streaming = True
            return
        self.content_type = content_type or JSON_TYPE
        self._receipt = headers.get(_RECEIPT, b"")
        if int(headers.get(b"content-length", b"0")) > self._bytes_max:
            self._fail("BodyTooLarge")

    def on_body(self, data: bytes) -> None:
        """Bytes of the answer."""
        if self.is_over:
            return
        line, former_us = self._line, self.heard_us
        self.heard_us = now_us = line.clock.mono_us()
        if not self.is_streaming:
            self._parts.append(data)
            self._size += len(data)
            if self._size > self._bytes_max:
                self._fail("BodyTooLarge")
            return
        tally = self.tally
        former, is_first = tally.events, not tally.body_bytes
        if is_first:
            self.first_us = now_us
        self.last_us = now_us
        part = tally.feed(data)
        if tally.receipt is not None:
            self.tail = part
            line.trailing[self] = now_us + line.deadlines.trailer_ms * 1000
            self._end()
            return
        if part and self._owner is not None:
            self._owner.came(self, part)
        if tally.broken:
            self._fail("event_too_large")
        elif tally.body_bytes > self._bytes_max:
            self._fail("answer_too_large")
        elif not is_first and line.gathering.is_fast(tally.events - former, now_us - former_us):
            self._rest()

    def on_end(self) -> None:
        """The answer's last byte is here: the connection can be used again."""
        link, self._link = self._link, None
        if link is not None:
            link.release()
        if self.is_over:
            self._line.trailing.pop(self, None)
        elif self.is_streaming:
            self._fail("no_receipt")
        else:
            self._take_whole()

    def on_lost(self, error: WireError) -> None:
        """The connection broke. One that died unused is not the miner's failure, so the same order
        is sent once more; a miner that did see it refuses the replay.
        """
        self._link = None
        if self.is_over:
            self._line.trailing.pop(self, None)
        elif isinstance(error, PeerClosed) and not error.after_bytes and not self._is_again:
            self._is_again = True
            self._dial()
        else:
            self._fail(type(error).__name__)

    # Inside.

    def _rest(self) -> None:
        if self._link is not None and not self._is_resting:
            self._is_resting = True
            self._link.pause()
            self._line.gathering.rest(self)

    def _dial(self) -> None:
        self._line.errands.start("dial", self._connect(), on_crash=self._crashed)

    async def _connect(self) -> None:
        assert self.peer is not None, "who is dialled is known"
        line = self._line
        try:
            link = await line.http.dial(self.peer.key, deadline_ms=line.deadlines.head_ms)
        except WireError as error:
            if not self.is_over:
                self._fail(type(error).__name__)
            return
        if self.is_over:
            link.abort()
        else:
            self._write(link)

    def _crashed(self, error: Exception) -> None:
        if not self.is_over:
            self._fail(type(error).__name__)

    def _write(self, link: Link) -> None:
        peer, call = self.peer, self.call
        assert peer is not None, "who is written to is known"
        self._link = link
        self.is_sent = True
        request = b"%b%b\r\n%b%b\r\ncontent-length: %d\r\n\r\n%b" % (
            peer.head_of(call.path),
            self.content_type,
            self.placed.head_lines(),
            self.trace,
            len(call.body),
            call.body,
        )
        link.begin("POST", request, self)

    async def _say_cancel(self) -> None:
        order_id, peer = self.placed.order_id, self.peer
        assert peer is not None, "what was sent was sent to somebody"
        headers, body = self.placed.proof()
        try:
            await self._line.http.call(
                "POST",
                f"{peer.endpoint}/v1/cancel/{order_id}",
                headers=(*JSON, *headers),
                body=body,
                deadline_ms=self._line.deadlines.cancel_wait_ms,
                body_bytes_max=CANCEL_REPLY_BYTES_MAX,
            )
        except (WireError, ValueError):
            self.failure = self.failure or "cancel_unheard"

    def _take_whole(self) -> None:
        """An answer in one piece is complete."""
        parts, self._parts = self._parts, []
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.first_us = self.last_us = self._line.clock.mono_us()
        self.tally.take_whole(self.body)
        if self._receipt:
            self.tally.receipt = decoded_word(self._receipt)
        status = self.status
        if self.call.stream and status < 400:
            self.failure = "no_stream"
        elif not 200 <= status < 300 and not 400 <= status < 500:
            self.failure = f"status_{status}"
        self._end()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.cut()
        self._end()

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.over(self)
