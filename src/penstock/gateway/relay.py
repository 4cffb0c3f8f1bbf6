"""A streamed answer on its way to the client: the miner's bytes as they come, then our countersignature.

Nothing is held back: a chunk is counted, hashed and passed on before the next one is asked for. So a
client that reads slowly slows the miner down, and the time that takes is the client's: past its bound
it counts as gone and pays for what was proven. Else the order's deadline would pass, the answer would
cost nothing, and the miner would be blamed.
"""

from collections.abc import AsyncIterator

import msgspec

from penstock.gateway.admit import Ticket
from penstock.gateway.attempts import Attempt
from penstock.gateway.closing import Closing
from penstock.gateway.orders import signed_json
from penstock.kit.errors import ReaderStalled
from penstock.kit.sse import comment
from penstock.spec.stream import COUNTERSIGN_COMMENT


class Relay(AsyncIterator[bytes]):
    """The body of a streamed answer. The server closes it when the client has gone.

    A class, not a generator: an async generator that was never started is closed without running,
    and the order it stands for would be lost.
    """

    __slots__ = (
        "_attempt",
        "_client_us",
        "_closing",
        "_first",
        "_given_us",
        "_is_closed",
        "_request_id",
        "_ticket",
    )

    def __init__(
        self, closing: Closing, attempt: Attempt, *, ticket: Ticket, request_id: str
    ) -> None:
        self._closing = closing
        self._attempt = attempt
        self._ticket = ticket
        self._request_id = request_id
        self._first: bytes = attempt.first
        self._is_closed = False
        self._client_us = 0
        self._given_us = closing.clock.mono_us()
        ticket.hand_over()

    async def __anext__(self) -> bytes:
        attempt = self._attempt
        if self._is_closed:
            await attempt.leave()
            raise StopAsyncIteration
        self._check_reader()
        part, self._first = self._first, b""
        if not part:
            part = await attempt.read()
        self._given_us = self._closing.clock.mono_us()
        return part + self._end() if attempt.is_over else part

    async def aclose(self) -> None:
        """The server is done with it; before the end that means that the client has gone."""
        if self._is_closed:
            await self._attempt.cut()
            return
        self._is_closed = True
        self._closing.abandon(self._attempt, self._ticket)

    def _check_reader(self) -> None:
        """All the time between a part that was given and the next one asked for. Raises ReaderStalled;
        the server then closes this stream, as for any client that has gone.
        """
        self._client_us += self._closing.clock.mono_us() - self._given_us
        reader_ms = self._closing.deadlines.reader_ms
        if self._client_us > reader_ms * 1000:
            raise ReaderStalled(reader_ms)

    def _end(self) -> bytes:
        """Close the order and say so as the stream's last words."""
        self._is_closed = True
        attempt = self._attempt
        closed = self._closing.close(attempt, self._ticket)
        self._ticket.settle(closed.end.charge_nano)
        self._closing.metrics.count("gateway_requests_total", outcome=closed.end.outcome.value)
        last = comment(COUNTERSIGN_COMMENT, signed_json(closed.countersign))
        if attempt.tally.receipt is not None:
            return last
        return _lost_event(attempt.failure, self._request_id) + last


def _lost_event(reason: str, request_id: str) -> bytes:
    """What a client reads when the miner was lost in mid-stream; stock clients raise on it."""
    error = {
        "message": f"The miner was lost in mid-answer ({reason}). Nothing was charged. Try again.",
        "type": "server_error",
        "param": None,
        "code": "miner_failed",
        "request_id": request_id,
    }
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
