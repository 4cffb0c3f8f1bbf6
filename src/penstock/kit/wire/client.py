"""An HTTP/1.1 client over the Network port: whole calls, streams, links, and a keep-alive pool.

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
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from penstock.kit.errors import (
    BodyTooLarge,
    ConnectFailed,
    DeadlinePassed,
    PeerClosed,
    WireError,
)
from penstock.kit.ports import Network
from penstock.kit.wire.http import joined_head
from penstock.kit.wire.link import Link, LinkKey
from penstock.kit.wire.pool import Pool
from penstock.kit.wire.reading import Reading

_AGAIN = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_OWNS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_GOALS_MAX = 1_024
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

    key: LinkKey
    authority: str
    target: str


class Chunks:
    """The body's chunks as they arrive; an async iterator."""

    __slots__ = ("_idle_deadline_ms", "_reading")

    def __init__(self, reading: Reading, idle_deadline_ms: int) -> None:
        self._reading = reading
        self._idle_deadline_ms = idle_deadline_ms

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._reading.next_chunk(self._idle_deadline_ms)
        if not chunk:
            raise StopAsyncIteration
        return chunk


class StreamReply:
    """A reply whose head is here and whose body is read as it comes."""

    __slots__ = ("_reading", "headers", "status")

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.status = reading.status
        self.headers: Mapping[bytes, bytes] = reading.headers

    def header(self, name: str) -> str:
        """The value of the header (any case), or ""."""
        return self.headers.get(name.lower().encode("ascii"), b"").decode("latin-1")

    def chunks(self, *, idle_deadline_ms: int) -> Chunks:
        """De-chunked bytes, at most one chunk per network read.

        Iterating raises DeadlinePassed when nothing comes for `idle_deadline_ms`, PeerClosed when
        the body is cut, BadReply when the framing breaks.
        """
        return Chunks(self._reading, idle_deadline_ms)

    async def next_chunk(self, *, idle_deadline_ms: int) -> bytes:
        """The next of the chunks, b"" at the end. Raises what iterating over `chunks` raises."""
        return await self._reading.next_chunk(idle_deadline_ms)

    def fail(self, error: WireError) -> None:
        """Cut the connection; whoever waits for a chunk gets the error at once."""
        self._reading.fail(error)

    def end(self) -> None:
        """Nobody reads on: the connection is kept, or cut if the body was not read to its end."""
        self._reading.end()

    async def read(self, *, bytes_max: int, idle_deadline_ms: int) -> bytes:
        """The rest of the body, whole. Raises BodyTooLarge and what `chunks` raises."""
        return await _read(self._reading, bytes_max, idle_deadline_ms)


class HttpClient:
    """Calls other stations. One per process or station; `close` it at the end."""

    def __init__(self, network: Network, limits: ClientLimits | None = None) -> None:
        self._network = network
        self._limits = limits if limits is not None else ClientLimits()
        self._pool = Pool(
            idle_max=self._limits.idle_max,
            idle_total_max=self._limits.idle_total_max,
            idle_ms=self._limits.idle_ms,
        )

    @property
    def idle_links(self) -> int:
        """How many connections rest in the pool."""
        return len(self._pool)

    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        deadline_ms: int,
        body_bytes_max: int | None = None,
    ) -> Reply:
        """One request and its whole reply within `deadline_ms`.

        Raises WireError, and ValueError for a URL or a header that cannot be sent.
        """
        bytes_max = self._limits.body_bytes_max if body_bytes_max is None else body_bytes_max
        goal = _goal(url)
        request = _request(goal, method, headers=headers, body=body)
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                reading = await self._open(goal, method, request)
                try:
                    whole = await _read(reading, bytes_max, None)
                finally:
                    reading.end()
        except TimeoutError as error:
            raise DeadlinePassed("call", deadline_ms) from error
        return Reply(reading.status, reading.headers, whole)

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
        """A reply to be read chunk by chunk. Raises on entering as `call` does.

        Leaving before the body's end cuts the connection: that is how a cancel reaches the peer.
        """
        try:
            async with asyncio.timeout(head_deadline_ms / 1000):
                reply = await self.begin(method, url, headers=headers, body=body)
        except TimeoutError as error:
            raise DeadlinePassed("head", head_deadline_ms) from error
        try:
            yield reply
        finally:
            reply.end()

    async def begin(
        self, method: str, url: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> StreamReply:
        """`open_stream` for a caller that sets the deadline around it, and calls `end` in every case."""
        goal = _goal(url)
        request = _request(goal, method, headers=headers, body=body)
        return StreamReply(await self._open(goal, method, request))

    def idle_link(self, key: LinkKey) -> Link | None:
        """A connection that rests, if there is one; `Link.release` gives it back."""
        return self._pool.take(key)

    async def dial(self, key: LinkKey, *, deadline_ms: int) -> Link:
        """A new connection. Raises ConnectFailed, DeadlinePassed."""
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                return await self._connect(key)
        except TimeoutError as error:
            raise DeadlinePassed("dial", deadline_ms) from error

    async def close(self) -> None:
        """Drop the pool; exchanges that run are not touched, but nothing is kept after them."""
        self._pool.close()

    async def _open(self, goal: _Goal, method: str, request: bytes) -> Reading:
        """A reply whose head has come."""
        link = self._pool.take(goal.key)
        if link is not None:
            try:
                return await _ask(link, method, request)
            except PeerClosed as error:
                if error.after_bytes or method not in _AGAIN:
                    raise
        return await _ask(await self._connect(goal.key), method, request)

    async def _connect(self, key: LinkKey) -> Link:
        host, port, tls = key
        try:
            _, link = await self._network.connect(
                host, port, lambda: Link(key, self._pool), tls=tls
            )
        except OSError as error:
            raise ConnectFailed(host, port) from error
        assert isinstance(link, Link)
        return link


def link_key(url: str) -> LinkKey:
    """Which links lead to the URL. Raises ValueError for one that cannot be called."""
    return _goal(url).key


async def _ask(link: Link, method: str, request: bytes) -> Reading:
    """Send the request and wait for the head; a link that fails is closed."""
    reading = Reading(link)
    link.begin(method, request, reading)
    try:
        await reading.head()
    finally:
        if not reading.status:
            link.abort()
    return reading


async def _read(reading: Reading, bytes_max: int, idle_deadline_ms: int | None) -> bytes:
    length = reading.headers.get(b"content-length", b"0")
    if int(length) > bytes_max:  # the link let only digits through
        raise BodyTooLarge(bytes_max)
    parts: list[bytes] = []
    size = 0
    while chunk := await reading.next_chunk(idle_deadline_ms):
        size += len(chunk)
        if size > bytes_max:
            raise BodyTooLarge(bytes_max)
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@lru_cache(maxsize=_GOALS_MAX)  # the same few URLs are called all day; parsing costs 15 us
def _goal(url: str) -> _Goal:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url!r}")
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    if not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError(f"the URL must be percent-encoded: {url!r}")
    port = parts.port if parts.port is not None else _PORTS[parts.scheme]
    authority = parts.netloc.rpartition("@")[2]
    return _Goal((parts.hostname, port, parts.scheme == "https"), authority, target)


def _request(goal: _Goal, method: str, *, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"{method} {goal.target} HTTP/1.1", f"host: {goal.authority}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in _OWNS]
    if body or method in _WITH_BODY:
        lines.append(f"content-length: {len(body)}")
    return joined_head(lines) + body
