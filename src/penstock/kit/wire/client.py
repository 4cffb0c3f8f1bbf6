"""An HTTP/1.1 client over the Network port: whole calls, streams, and a keep-alive pool.

When a pooled connection turns out dead: if it was seen to be closed before the request was
written, another one is taken. If the request was written and not one byte of a reply came, the
request is sent once more on a fresh connection when its method is safe or idempotent (GET, HEAD,
OPTIONS, PUT, DELETE); for POST the caller gets `PeerClosed(after_bytes=0)` and decides, since the
peer may have acted on it. Connections rest at most `idle_ms` in the pool, which must be less than
the server's idle deadline, so that the case is rare.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from penstock.kit.errors import BodyTooLarge, ConnectFailed, DeadlinePassed, PeerClosed
from penstock.kit.ports import Network
from penstock.kit.wire.http import joined_head
from penstock.kit.wire.link import Link

_AGAIN = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_OWNS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of a client. `idle_max` is per (host, port), `idle_total_max` over all."""

    idle_max: int = 64
    idle_total_max: int = 1_024
    idle_ms: int = 30_000
    body_bytes_max: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. Header names in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    def header(self, name: str) -> str:
        """The value of the header (any case), or ""."""
        return self.headers.get(name.lower().encode("ascii"), b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class _Goal:
    """Where a URL leads: the pool's key and the request line's target."""

    key: tuple[str, int, bool]
    authority: str
    target: str


class Chunks:
    """The body's chunks as they arrive; an async iterator."""

    __slots__ = ("_idle_deadline_ms", "_link")

    def __init__(self, link: Link, idle_deadline_ms: int) -> None:
        self._link = link
        self._idle_deadline_ms = idle_deadline_ms

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._link.next_chunk(self._idle_deadline_ms)
        if not chunk:
            raise StopAsyncIteration
        return chunk


class StreamReply:
    """A reply whose head is here and whose body is read as it comes."""

    __slots__ = ("_link", "headers", "status")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.status = link.status
        self.headers: Mapping[bytes, bytes] = link.headers

    def header(self, name: str) -> str:
        """The value of the header (any case), or ""."""
        return self.headers.get(name.lower().encode("ascii"), b"").decode("latin-1")

    def chunks(self, *, idle_deadline_ms: int) -> Chunks:
        """De-chunked bytes, at most one chunk per network read.

        Iterating raises DeadlinePassed when nothing comes for `idle_deadline_ms`, PeerClosed when
        the body is cut, BadReply when the framing breaks.
        """
        return Chunks(self._link, idle_deadline_ms)

    async def read(self, *, bytes_max: int, idle_deadline_ms: int) -> bytes:
        """The rest of the body, whole. Raises BodyTooLarge and what `chunks` raises."""
        length = self.header("content-length")
        if length and int(length) > bytes_max:
            raise BodyTooLarge(bytes_max)
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks(idle_deadline_ms=idle_deadline_ms):
            size += len(chunk)
            if size > bytes_max:
                raise BodyTooLarge(bytes_max)
            parts.append(chunk)
        return b"".join(parts)


class HttpClient:
    """Calls other stations. One per process or station; `close` it at the end."""

    def __init__(self, network: Network, limits: ClientLimits | None = None) -> None:
        self._network = network
        self._limits = limits if limits is not None else ClientLimits()
        self._idle: dict[tuple[str, int, bool], list[Link]] = {}
        self._idle_total = 0
        self._closed = False

    @property
    def idle_links(self) -> int:
        """How many connections rest in the pool."""
        return self._idle_total

    async def call(  # noqa: PLR0913 - one HTTP request has this many parts
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        deadline_ms: int,
        body_bytes_max: int | None = None,
    ) -> Reply:
        """One request and its whole reply within `deadline_ms`. Raises WireError, ValueError (url)."""
        bytes_max = self._limits.body_bytes_max if body_bytes_max is None else body_bytes_max
        try:
            async with asyncio.timeout(deadline_ms / 1000), self._exchange(
                method, url, headers, body
            ) as reply:
                whole = await reply.read(bytes_max=bytes_max, idle_deadline_ms=deadline_ms)
                return Reply(reply.status, reply.headers, whole)
        except TimeoutError as error:
            raise DeadlinePassed("call", deadline_ms) from error

    @asynccontextmanager
    async def open_stream(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        head_deadline_ms: int,
    ) -> AsyncIterator[StreamReply]:
        """A reply to be read chunk by chunk. Raises WireError on entering, ValueError (url).

        Leaving before the body's end cuts the connection: that is how a cancel reaches the peer.
        """
        link = None
        try:
            async with asyncio.timeout(head_deadline_ms / 1000):
                link, key = await self._open(method, url, headers, body)
        except TimeoutError as error:
            raise DeadlinePassed("head", head_deadline_ms) from error
        try:
            yield StreamReply(link)
        finally:
            self._give_back(key, link)

    async def close(self) -> None:
        """Drop the pool; exchanges that run are not touched, but nothing is kept after them."""
        self._closed = True
        for links in self._idle.values():
            for link in links:
                link.abort()
        self._idle.clear()
        self._idle_total = 0
