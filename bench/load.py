"""The load: so many connections that ask again and again. A process of its own: `python -m bench.load`.

It reads one JSON line (`Wish`) on stdin and writes one (`Seen`) on stdout. Its CPU is not counted
anywhere; it is written on bare sockets all the same, so that it leaves the two cores to the others.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import cast
from urllib.parse import urlsplit

import uvloop

LAST_CHUNK = b"0\r\n\r\n"
ANSWER_DEADLINE_S = 60
AFTER_ERROR_S = 0.02


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask, by how many at once, for how long. `body` is sent as it is."""

    url: str
    api_key: str
    body: str
    connections: int
    seconds: float


@dataclass(slots=True)
class Seen:
    """What came of it. `events` are data events with [DONE] (0 for whole answers)."""

    requests: int = 0
    events: int = 0
    reads: int = 0
    errors: int = 0
    first_error: str = ""
    wall_s: float = 0.0
    first_p50_ms: float = 0.0
    whole_p50_ms: float = 0.0
    whole_p99_ms: float = 0.0


@dataclass(slots=True)
class Times:
    """Times of all answers, in ms: to the body's first byte, to its last."""

    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)


def run(wish: Wish) -> Seen:
    """The load in a process of its own. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(wish)),
        capture_output=True,
        text=True,
        check=True,
        timeout=wish.seconds + 2 * ANSWER_DEADLINE_S,
    )
    return Seen(**json.loads(done.stdout))


class Lane(asyncio.Protocol):
    """One connection, one answer at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self.answered = 0
        self._begin()

    def _begin(self) -> None:
        self.data = bytearray()
        self.reads = 0
        self.first_at = 0.0
        self.body_at = 0
        self.length = -1
        self.done = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises RuntimeError for a status other than 200, or a cut."""
        assert self.transport is not None, "connected"
        self._begin()
        self.transport.write(request)
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            await self.done
        head = bytes(self.data[: self.body_at])
        if b"connection: close" in head.lower():
            self.transport.close()
            self.is_open = False
        body = bytes(self.data[self.body_at :])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError((head.split(b"\r\n")[0] + b" " + body[:300]).decode("latin-1"))
        self.answered += 1
        return body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.reads += 1
        if not self.body_at and not self._read_head():
            return
        if not self.first_at and len(self.data) > self.body_at:
            self.first_at = time.perf_counter()
        if self.length < 0:
            # Not the head's own end: `keep-alive: max=100` and the empty line look the same.
            body_bytes = len(self.data) - self.body_at
            complete = body_bytes >= len(LAST_CHUNK) and self.data.endswith(LAST_CHUNK)
        else:
            complete = len(self.data) >= self.body_at + self.length
        if complete and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the connection broke: {exc}"))
            self.done.exception()  # nobody may be waiting for it

    def _read_head(self) -> bool:
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.body_at = end + 4
        for line in bytes(self.data[:end]).lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self.length = int(line.partition(b":")[2])
        return True


async def _drive(wish: Wish) -> Seen:
    seen, times = Seen(), Times()
    parts = urlsplit(wish.url)
    body = wish.body.encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {wish.api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    asker = Asker(wish, request, (parts.hostname or "", parts.port or 80), seen, times)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(wish.connections):
            group.create_task(asker.run())
    seen.wall_s = time.perf_counter() - started
    if times.whole_ms:
        seen.first_p50_ms = median(times.first_ms)
        seen.whole_p50_ms = median(times.whole_ms)
        seen.whole_p99_ms = sorted(times.whole_ms)[math.ceil(seen.requests * 0.99) - 1]
    return seen


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks on one connection after another; what comes is added to `seen` and `times`."""

    wish: Wish
    request: bytes
    address: tuple[str, int]
    seen: Seen
    times: Times

    async def run(self) -> None:
        """One connection's part: ask until the time is over, and once at least."""
        loop = asyncio.get_running_loop()
        end_at = time.perf_counter() + self.wish.seconds
        lane = Lane()
        is_first = True
        while is_first or time.perf_counter() < end_at:
            is_first = False
            if not lane.is_open:
                _, lane = await loop.create_connection(Lane, *self.address)
            await self._ask(lane)

    async def _ask(self, lane: Lane) -> None:
        seen, started = self.seen, time.perf_counter()
        try:
            answer = await lane.ask(self.request)
        except (RuntimeError, TimeoutError) as error:
            if not lane.is_open and not lane.reads and lane.answered:
                return  # a server may end a connection that rests: asked again on a fresh one
            seen.errors += 1
            seen.first_error = seen.first_error or f"{type(error).__name__}: {error}"
            await asyncio.sleep(AFTER_ERROR_S)  # a refusal costs next to nothing: do not storm
            return
        seen.requests += 1
        seen.reads += lane.reads
        seen.events += answer.count(b"data: ")
        self.times.first_ms.append((lane.first_at - started) * 1000)
        self.times.whole_ms.append((time.perf_counter() - started) * 1000)


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_drive(Wish(**json.loads(sys.stdin.readline())))))))
