"""A hub, a mirror and a store of large files on one real port, honest unless a test says otherwise."""

import asyncio
import hashlib
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from penstock.adapters.weights.hub import git_blob_id
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

HOST = "127.0.0.1"
REPO = "acme/tiny"
PIECE = 64 << 10

Fault = Callable[[Request, bytes], Awaitable[Response | Stream | None]]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gguf(size: int, *, seed: int = 1) -> bytes:
    """Bytes that begin as a GGUF file and are no two times the same."""
    return (b"GGUF" + hashlib.shake_256(seed.to_bytes(8, "big")).digest(max(size - 4, 0)))[:size]


def safetensors(size: int, *, seed: int = 1) -> bytes:
    header = b'{"t":{"dtype":"U8"}}'
    body = hashlib.shake_256(seed.to_bytes(8, "big")).digest(size)
    return len(header).to_bytes(8, "little") + header + body


class Hub:
    """`files` of one repository; those in `large` are kept by SHA-256 behind a redirect.

    `fault` may answer a request for a large file in its own way. `asked` are (path, Range header).
    """

    def __init__(self, files: dict[str, bytes], *, page_max: int = 1000) -> None:
        self.files = files
        self.page_max = page_max
        self.fault: Fault | None = None
        self.asked: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.url = ""

    @property
    def blobs(self) -> dict[str, bytes]:
        return {sha(data): data for data in self.files.values()}

    def gets(self, place: str) -> list[str]:
        """The Range headers of the requests whose path holds `place`, probes left out."""
        return [ranged for path, ranged in self.asked if place in path and ranged != "bytes=0-15"]

    def tree(self, query: str) -> tuple[list[dict[str, object]], str]:
        cursor = int(found[1]) if (found := re.search(r"cursor=(\d+)", query)) else 0
        names = sorted(self.files)[cursor : cursor + self.page_max]
        following = ""
        if cursor + self.page_max < len(self.files):
            page = f"{self.url}/api/models/{REPO}/tree/main?cursor={cursor + self.page_max}"
            following = f'<{page}>; rel="next"'
        return [entry(name, self.files[name]) for name in names], following

    async def serve(self, request: Request) -> Response | Stream:
        self.asked.append((request.path, request.header("range")))
        self.requests.append(request)
        for pattern, answer in (
            (rf"/api/models/{REPO}/tree/(.+)", self._tree),
            (rf"/{REPO}/resolve/[^/]+/(.+)", self._resolve),
            (r"/(?:cdn|mirror/sha256)/([0-9a-f]{64})", self._blob),
        ):
            found = re.fullmatch(pattern, request.path)
            if found is not None:
                return await answer(request, found[1])
        return Response(404)

    async def _tree(self, request: Request, _revision: str) -> Response:
        entries, following = self.tree(request.query)
        headers = (("link", following),) if following else ()
        return json_response(200, entries, headers=headers)

    async def _resolve(self, _request: Request, name: str) -> Response:
        if name not in self.files:
            return Response(404)
        if is_large(name):
            target = f"/cdn/{sha(self.files[name])}?key=secret"
            return Response(302, b"", (("location", target),))
        return Response(200, self.files[name])

    async def _blob(self, request: Request, digest: str) -> Response | Stream:
        data = self.blobs.get(digest)
        if data is None:
            return Response(404)
        answer = await self.fault(request, data) if self.fault is not None else None
        return answer if answer is not None else ranged(request, data)


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


def entry(name: str, data: bytes) -> dict[str, object]:
    """As the hub lists a file."""
    plain: dict[str, object] = {"type": "file", "path": name, "size": len(data)}
    if is_large(name):
        return {
            **plain,
            "oid": "0" * 40,
            "lfs": {"oid": sha(data), "size": len(data), "pointerSize": 134},
        }
    return {**plain, "oid": git_blob_id(data)}


def ranged(request: Request, data: bytes) -> Response | Stream:
    """The file or a part of it, in pieces, as a static server gives it."""
    headers = (("etag", f'"{sha(data)[:8]}"'), ("accept-ranges", "bytes"))
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.header("range"))
    if found is None:
        return Stream(200, headers, pieces(data), length=len(data))
    first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
    if first > last:
        return Response(416, b"", (("content-range", f"bytes */{len(data)}"),))
    where = (("content-range", f"bytes {first}-{last}/{len(data)}"),)
    part = data[first : last + 1]
    return Stream(206, headers + where, pieces(part), length=len(part))


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(data), PIECE):
        yield data[place : place + PIECE]


async def broken(data: bytes, *, after: int) -> AsyncIterator[bytes]:
    """So many bytes, then the line is cut."""
    yield data[:after]
    await asyncio.sleep(0)
    raise ConnectionAbortedError


@asynccontextmanager
async def running(hub: Hub, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Hub]:
    """The hub on a port of its own."""
    server = Server(Sockets(), hub.serve, entropy=os.urandom)
    port = await server.start(HOST, 0, tls=tls)
    hub.url = f"{'https' if tls else 'http'}://{HOST}:{port}"
    try:
        yield hub
    finally:
        await server.close(0)


@asynccontextmanager
async def serving(handler: Callable[[Request], Awaitable[Response | Stream]]) -> AsyncIterator[str]:
    """Any handler on a port; its URL."""
    server = Server(Sockets(), handler, entropy=os.urandom)
    port = await server.start(HOST, 0)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        await server.close(0)
