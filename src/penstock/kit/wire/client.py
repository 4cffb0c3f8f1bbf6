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
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from penstock.kit.errors import BodyTooLarge, ConnectFailed, DeadlinePassed, PeerClosed
from penstock.kit.ports import Network
from penstock.kit.wire.http import joined_head
from penstock.kit.wire.link import Link, LinkKey

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
        return await _read(self._link, bytes_max, idle_deadline_ms)


class HttpClient:
    """Calls other stations. One per process or station; `close` it at the end."""

    def __init__(self, network: Network, limits: ClientLimits | None = None) -> None:
        self._network = network
        self._limits = limits if limits is not None else ClientLimits()
        self._idle: dict[LinkKey, list[Link]] = {}
        self._idle_total = 0
        self._closed = False

    @property
    def idle_links(self) -> int:
        """How many connections rest in the pool."""
        return self._idle_total

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
                link = await self._open(goal, method, request)
                try:
                    whole = await _read(link, bytes_max, None)
                finally:
                    self._give_back(link)
        except TimeoutError as error:
            raise DeadlinePassed("call", deadline_ms) from error
        return Reply(link.status, link.headers, whole)

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
        goal = _goal(url)
        request = _request(goal, method, headers=headers, body=body)
        try:
            async with asyncio.timeout(head_deadline_ms / 1000):
                link = await self._open(goal, method, request)
        except TimeoutError as error:
            raise DeadlinePassed("head", head_deadline_ms) from error
        try:
            yield StreamReply(link)
        finally:
            self._give_back(link)

    async def close(self) -> None:
        """Drop the pool; exchanges that run are not touched, but nothing is kept after them."""
        self._closed = True
        resting = [link for links in self._idle.values() for link in links]
        self._idle.clear()
        self._idle_total = 0
        for link in resting:
            link.abort()

    async def _open(self, goal: _Goal, method: str, request: bytes) -> Link:
        """A link whose reply's head has come."""
        link = self._take(goal.key)
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
            _, link = await self._network.connect(host, port, lambda: Link(key), tls=tls)
        except OSError as error:
            raise ConnectFailed(host, port) from error
        assert isinstance(link, Link)
        return link

    def _take(self, key: LinkKey) -> Link | None:
        """The link that rested the shortest, if one is fit to use."""
        links = self._idle.get(key)
        oldest_at = asyncio.get_running_loop().time() - self._limits.idle_ms / 1000
        while links:
            link = links.pop()
            self._idle_total -= 1
            link.on_lost = None
            if link.alive and link.idle_since >= oldest_at:
                return link
            link.abort()
        return None

    def _give_back(self, link: Link) -> None:
        if not link.end():
            return
        limits = self._limits
        links = self._idle.setdefault(link.key, [])
        if (
            self._closed
            or len(links) >= limits.idle_max
            or self._idle_total >= limits.idle_total_max
        ):
            link.close()
            return
        link.idle_since = asyncio.get_running_loop().time()
        link.on_lost = self._forget
        links.append(link)
        self._idle_total += 1

    def _forget(self, link: Link) -> None:
        """A resting link was closed by its server."""
        links = self._idle.get(link.key)
        if links is not None and link in links:
            links.remove(link)
            self._idle_total -= 1
            if not links:
                del self._idle[link.key]


async def _ask(link: Link, method: str, request: bytes) -> Link:
    """Send the request and wait for the head; a link that fails is closed."""
    link.begin(method, request)
    try:
        await link.head()
    finally:
        if not link.status:
            link.abort()
    return link


async def _read(link: Link, bytes_max: int, idle_deadline_ms: int | None) -> bytes:
    length = link.headers.get(b"content-length", b"0")
    if int(length) > bytes_max:  # llhttp let only digits through
        raise BodyTooLarge(bytes_max)
    parts: list[bytes] = []
    size = 0
    while chunk := await link.next_chunk(idle_deadline_ms):
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
