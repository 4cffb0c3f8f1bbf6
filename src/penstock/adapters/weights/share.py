"""A miner's cache for other miners: `GET /v1/weights/sha256/HEX`, read-only, with ranges.

Off unless the operator sets `weights.share`. Served are only models that came from a public source,
whole, and only to miners of the same market, who sign each question (`spec/weights.py`). Every bound
is small: whoever serves answers earns by that, not by giving away weights.
"""

import asyncio
import os
import re
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from penstock.adapters.weights.store import WeightStore
from penstock.kit.ports import Clock, Verify
from penstock.kit.wire.http import Headers, Request, Response, Stream
from penstock.kit.wire.problem import problem
from penstock.spec.canon import parse
from penstock.spec.errors import SpecError
from penstock.spec.keys import parse_signed
from penstock.spec.weights import WeightsAsk, check_weights_ask, is_sha256, spell_listing

ROUTE = "/v1/weights/sha256/{sha256}"
ASK_HEADER = "x-penstock-ask"
ASK_CHARS_MAX = 2_048
SKEW_MS_MAX = 10_000
CHUNK_BYTES = 256 << 10
HOUR_MS = 3_600_000
PEERS_MAX = 4_096
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")

IsMember = Callable[[str], Awaitable[bool]]
"""Is this identity a miner of the market, by its charter or its board?"""


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """Of all peers together, and of each."""

    streams_max: int = 4
    peer_streams_max: int = 2
    stream_bytes_per_s_max: int = 64 << 20
    peer_bytes_per_hour_max: int = 256 << 30


@dataclass(slots=True)
class Use:
    """What one peer had in the present hour, and has open now."""

    since_ms: int
    sent_bytes: int = 0
    streams: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes `first` to `last` (inclusive) of `size_bytes`."""

    first: int
    last: int
    size_bytes: int
    is_whole: bool

    @property
    def length(self) -> int:
        return self.last - self.first + 1


class Share:
    """The handler of the route."""

    def __init__(
        self,
        store: WeightStore,
        *,
        is_member: IsMember,
        verify: Verify,
        clock: Clock,
        limits: ShareLimits | None = None,
    ) -> None:
        self._store = store
        self._is_member = is_member
        self._verify = verify
        self._clock = clock
        self._limits = limits if limits is not None else ShareLimits()
        self._uses: OrderedDict[str, Use] = OrderedDict()
        self._streams = 0

    async def serve(self, request: Request) -> Response | Stream:
        """Bytes of one file, or a refusal that says why."""
        sha256 = request.params.get("sha256", "")
        ask = self._ask(request)
        if ask is None or ask.sha256 != sha256 or not await self._is_member(ask.miner):
            return refusal(
                request,
                403,
                code="weights_refused",
                message="Only miners of this market are served.",
            )
        content = await asyncio.to_thread(self._content, sha256)
        if content is None:
            return refusal(
                request, 404, code="weights_unknown", message="These weights are not shared here."
            )
        data, size_bytes = content
        wanted = read_range(request, size_bytes, etag=f'"{sha256}"')
        if wanted is None:
            outside: Headers = (("content-range", f"bytes */{size_bytes}"),)
            return Response(416, b"", outside)
        use = self._use(ask.miner)
        limits = self._limits
        is_full = self._streams >= limits.streams_max or use.streams >= limits.peer_streams_max
        if is_full or use.sent_bytes + wanted.length > limits.peer_bytes_per_hour_max:
            return refusal(
                request,
                429,
                code="weights_busy",
                message="Enough is being fetched. Ask again later.",
            )
        status = 200 if wanted.is_whole else 206
        headers = head_of(wanted, sha256)
        if data is not None:
            return Response(status, data[wanted.first : wanted.last + 1], headers)
        chunks = self._send(sha256, wanted, use)
        return Stream(status, headers, chunks, length=wanted.length)

    def _ask(self, request: Request) -> WeightsAsk | None:
        """Who asks, if the question holds."""
        text = request.header(ASK_HEADER)
        if not 0 < len(text) <= ASK_CHARS_MAX:
            return None
        try:
            signed = parse_signed(parse(urlsafe_b64decode(text)))
            return check_weights_ask(
                signed,
                host=request.header("host"),
                now_ms=self._clock.now_ms(),
                skew_max_ms=SKEW_MS_MAX,
                verify=self._verify,
            )
        except (SpecError, Base64Error, ValueError):
            return None

    def _content(self, sha256: str) -> tuple[bytes | None, int] | None:
        """(a listing's bytes, its size) or (None, a file's size); None if it is not shared."""
        if not is_sha256(sha256):
            return None
        for record in self._store.records():
            if not (record.is_whole and record.is_public):
                continue
            if record.is_folder and record.digest == sha256:
                listing = spell_listing(record.files)
                return listing, len(listing)
            for file in record.files:
                if file.sha256 == sha256 and self._store.has_blob(file):
                    return None, file.size_bytes
        return None

    def _use(self, miner: str) -> Use:
        now_ms = self._clock.now_ms()
        use = self._uses.setdefault(miner, Use(now_ms))
        self._uses.move_to_end(miner)
        if now_ms - use.since_ms >= HOUR_MS:
            use.since_ms, use.sent_bytes = now_ms, 0
        if len(self._uses) > PEERS_MAX:
            self._uses.popitem(last=False)
        return use

    async def _send(self, sha256: str, wanted: Slice, use: Use) -> AsyncIterator[bytes]:
        """The bytes, paced. A file that is evicted meanwhile stays readable: it is open."""
        handle = os.open(self._store.blob(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._streams += 1
        use.streams += 1
        try:
            place = wanted.first
            while place <= wanted.last:
                count = min(CHUNK_BYTES, wanted.last + 1 - place)
                chunk = await asyncio.to_thread(os.pread, handle, count, place)
                if not chunk:
                    return  # cut short on disk: the connection breaks, and the peer asks elsewhere
                place += len(chunk)
                use.sent_bytes += len(chunk)
                yield chunk
                await asyncio.sleep(len(chunk) / self._limits.stream_bytes_per_s_max)
        finally:
            self._streams -= 1
            use.streams -= 1
            os.close(handle)


def read_range(request: Request, size_bytes: int, *, etag: str) -> Slice | None:
    """What is asked for; the whole where there is no range we know; None for one beyond the end."""
    whole = Slice(0, size_bytes - 1, size_bytes, is_whole=True)
    found = RANGE.fullmatch(request.header("range"))
    if found is None or request.header("if-range") not in {"", etag}:
        return whole
    first = int(found[1])
    last = min(int(found[2]) if found[2] else size_bytes - 1, size_bytes - 1)
    if first > last:
        return None
    return Slice(first, last, size_bytes, is_whole=False)


def head_of(wanted: Slice, sha256: str) -> Headers:
    """The headers of an answer."""
    headers: Headers = (
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("etag", f'"{sha256}"'),
    )
    if wanted.is_whole:
        return headers
    return (*headers, ("content-range", f"bytes {wanted.first}-{wanted.last}/{wanted.size_bytes}"))


def refusal(request: Request, status: int, *, code: str, message: str) -> Response:
    return problem(status, code, message, request_id=request.request_id)
