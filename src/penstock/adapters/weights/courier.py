"""GET for weights: redirects by rule, no compression, every wait bounded, secrets kept at home."""

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from penstock.adapters.weights.errors import (
    AddressRefused,
    RedirectRefused,
    SourceDenied,
    SourceMissing,
    SourceRefused,
    WeightsError,
)
from penstock.adapters.weights.network import PORTS, PublicSockets, authority_of
from penstock.kit.errors import BodyTooLarge, WireError
from penstock.kit.wire.client import HttpClient, StreamReply

REDIRECTS = frozenset({301, 302, 303, 307, 308})
DENIED = frozenset({401, 403})
WHOLE, PIECE, BEYOND = 200, 206, 416
HEAD_BYTES = 16

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where bytes are: `secret` headers go to the URL's own host and nowhere else."""

    url: str
    secret: Headers = ()
    redirects_max: int = 5
    plain_allowed: bool = False
    """Also by http: between miners, where the digest alone is what convinces."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """`idle_ms`: between two chunks. `stall_ms`: in each such span at least `stall_bytes_min` come."""

    head_ms: int = 30_000
    idle_ms: int = 60_000
    stall_ms: int = 60_000
    stall_bytes_min: int = 64 << 10


class Courier:
    """Asks sources. `trusted` authorities (`host:port`) may be private, and may be plain http."""

    def __init__(
        self,
        trusted: frozenset[str],
        deadlines: Deadlines,
        *,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self.deadlines = deadlines
        self._trusted = trusted
        self._client = HttpClient(PublicSockets(trusted, tls_context=tls_context))

    async def close(self) -> None:
        await self._client.close()

    def is_trusted(self, url: str) -> bool:
        """Is it the operator's own?"""
        return authority_of(url) in self._trusted

    @asynccontextmanager
    async def open(self, address: Address, *extra: tuple[str, str]) -> AsyncIterator[StreamReply]:
        """The reply with status 200, 206 or 416, body unread. Raises WeightsError, WireError."""
        url = address.url
        self._check(url, address)
        for _ in range(address.redirects_max + 1):
            secret = address.secret if same_host(url, address.url) else ()
            async with self._once(url, (*extra, *secret)) as reply:
                if reply.status not in REDIRECTS:
                    check_status(reply, shown(url))
                    yield reply
                    return
                target = reply.header("location")
            url = self._next(url, target, address)
        raise RedirectRefused(shown(address.url), shown(url), "that is one redirect too many")

    async def read(self, address: Address, *, bytes_max: int) -> tuple[bytes, str]:
        """(a small body whole, its Link header). Raises WeightsError, WireError."""
        async with self.open(address) as reply:
            link = reply.header("link")
            if reply.status != WHOLE:
                raise SourceRefused(shown(address.url), f"it answered {reply.status}")
            try:
                idle_ms = self.deadlines.idle_ms
                return await reply.read(bytes_max=bytes_max, idle_deadline_ms=idle_ms), link
            except BodyTooLarge as error:
                why = f"its answer is larger than {bytes_max} bytes"
                raise SourceRefused(shown(address.url), why) from error

    async def probe(self, address: Address) -> tuple[int, bytes]:
        """(how long a file is, its first bytes). Raises WeightsError, WireError."""
        async with self.open(address, ("range", f"bytes=0-{HEAD_BYTES - 1}")) as reply:
            size = whole_size(reply)
            if size is None:
                raise SourceRefused(shown(address.url), "it does not say how long the file is")
            head = b""
            async for chunk in reply.chunks(idle_deadline_ms=self.deadlines.idle_ms):
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
            return size, head[:HEAD_BYTES]

    @asynccontextmanager
    async def _once(
        self, url: str, headers: Iterable[tuple[str, str]]
    ) -> AsyncIterator[StreamReply]:
        asked = (("accept-encoding", "identity"), ("user-agent", "penstock-miner"), *headers)
        opened = self._client.open_stream(
            "GET", url, headers=asked, head_deadline_ms=self.deadlines.head_ms
        )
        try:
            reply = await opened.__aenter__()
        except WireError as error:
            if isinstance(error.__cause__, AddressRefused):
                raise error.__cause__ from None
            raise
        except ValueError as error:
            raise SourceRefused(shown(url), "its URL cannot be called") from error
        try:
            yield reply
        finally:
            await opened.__aexit__(None, None, None)

    def _check(self, url: str, address: Address) -> None:
        if urlsplit(url).scheme != "https" and not address.plain_allowed:
            if authority_of(url) in self._trusted:
                return
            raise SourceRefused(shown(url), "it is not reached by https")

    def _next(self, url: str, target: str, address: Address) -> str:
        """Where a redirect leads. Raises RedirectRefused."""
        if not target or not target.isascii() or not target.isprintable():
            raise RedirectRefused(shown(url), "?", "it names no place")
        following = joined(url, target)
        if following is None:
            raise RedirectRefused(shown(url), target[:40], "only https is followed")
        is_same = same_host(following, address.url)
        if following.startswith("http:") and not is_same:
            raise RedirectRefused(shown(url), shown(following), "only https is followed")
        if not is_same and authority_of(following) in self._trusted:
            raise RedirectRefused(
                shown(url), shown(following), "no stranger is sent to your own mirror"
            )
        return following


def check_status(reply: StreamReply, source: str) -> None:
    """Raises WeightsError for what is no file."""
    error: WeightsError | None = None
    if reply.status in DENIED:
        error = SourceDenied(source, reply.status)
    elif reply.status == 404:
        error = SourceMissing(source)
    elif reply.status not in {WHOLE, PIECE, BEYOND}:
        is_lasting = reply.status < 500 and reply.status != 429
        error = SourceRefused(source, f"it answered {reply.status}", is_lasting=is_lasting)
    elif reply.header("content-encoding") not in {"", "identity"}:
        error = SourceRefused(source, "it compresses what was asked for plain")
    if error is not None:
        raise error


def whole_size(reply: StreamReply) -> int | None:
    """The size of the whole file: behind the slash of Content-Range, or Content-Length."""
    if reply.status != WHOLE:
        total = reply.header("content-range").rpartition("/")[2]
    else:
        total = reply.header("content-length")
    return int(total) if total.isascii() and total.isdigit() and len(total) < 18 else None


def joined(url: str, target: str) -> str | None:
    """The target seen from the URL; None if that is no plain http(s) URL."""
    try:
        following = urljoin(url, target)
        parts = urlsplit(following)
        is_plain = parts.scheme in PORTS and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return following if is_plain and parts.hostname else None


def same_host(url: str, other: str) -> bool:
    """The same scheme, host and port."""
    return (urlsplit(url).scheme, authority_of(url)) == (
        urlsplit(other).scheme,
        authority_of(other),
    )


def shown(url: str) -> str:
    """A URL as people may see it: without its query, where keys stand."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]
