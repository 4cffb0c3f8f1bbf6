"""Requests that come from inside: a batch asks like a client, without a connection.

The same passage serves both, so limits, holds and records are the same. A streamed answer is
collected, as there is nobody to read it in pieces.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.gateway.instances import Instance
from penstock.kit.wire.http import Headers, Request, Response
from penstock.kit.wire.problem import problem


class Asker(Protocol):
    """What a passage needs of whoever asked; `kit.wire.exchange.Exchange` is one."""

    request: Request
    on_gone: Callable[[], None] | None
    on_writable: Callable[[], None] | None

    @property
    def is_full(self) -> bool: ...

    def respond(self, response: Response) -> None: ...

    def respond_encoded(self, status: int, fields: bytes, body: bytes) -> None: ...

    def open_encoded(self, status: int, fields: bytes) -> None: ...

    def write(self, data: bytes) -> None: ...

    def close_stream(self, last: bytes = b"") -> None: ...

    def cut(self) -> None: ...

    def crashed(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """How a request from inside is let in: for whose money, by the hash of a key, and to which
    instances it may go.
    """

    key_hash: str
    fits: Callable[[Instance], bool]


class Inside:
    """An asker that waits for one whole answer."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.is_full = False
        self._fields = b""
        self._status = 0
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def answer(self) -> Response:
        """The answer. Whoever is cancelled here has left, as a client leaves."""
        try:
            return await self._answer
        except asyncio.CancelledError:
            if self.on_gone is not None:
                self.on_gone()
            raise

    def respond(self, response: Response) -> None:
        """A whole answer."""
        if not self._answer.done():
            self._answer.set_result(response)

    def respond_encoded(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer, its header lines spelled."""
        self.respond(Response(status, body, _headers(fields)))

    def open_encoded(self, status: int, fields: bytes) -> None:
        """The head of a stream."""
        self._status, self._fields = status, fields

    def write(self, data: bytes) -> None:
        """A part of a stream."""
        self._parts.append(data)

    def close_stream(self, last: bytes = b"") -> None:
        """The end of a stream."""
        self._parts.append(last)
        self.respond_encoded(self._status, self._fields, b"".join(self._parts))

    def cut(self) -> None:
        """The answer is not whole."""
        self.respond(problem(502, "cut", "The answer was cut off. Try again."))

    def crashed(self, error: Exception) -> None:
        """A bug of ours."""
        self.respond(problem(500, "internal", f"A bug on our side ({type(error).__name__})."))


def _headers(fields: bytes) -> Headers:
    """Header lines taken apart again."""
    pairs = (line.partition(": ") for line in fields.decode("latin-1").split("\r\n") if line)
    return tuple((name, value) for name, _, value in pairs)
