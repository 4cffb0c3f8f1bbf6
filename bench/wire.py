"""What HTTP costs: CPU per request and per chunk of the relays of `bench.pipe`. `python -m bench.wire`.

Three processes: a mock engine that answers each request with the same bytes at once, the relay,
and a load that asks again and again. Mock and load share a core, the relay has the other; only the
relay's CPU is counted, from /proc. Whole answers show the price of a request; streams of 256
chunks that the mock writes in one go show the price of a chunk when chunks arrive together.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import uvloop
from bench.cpu import cpu_ms
from bench.pipe import HOST, PATH

CONNECTIONS = 64
CHUNKS = 256
SECONDS = 4.0
WARM_S = 1.0
KINDS = ("bytes", "tasks", "wire")
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"mock",'
    b'"choices":[{"index":0,"delta":{"content":"token"},"finish_reason":null}]}\n\n'
)
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 600\r\n\r\n" + b"x" * 600
)
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT) * CHUNKS
    + b"0\r\n\r\n"
)


class Mock(asyncio.Protocol):
    """Answers each request by its body; requests come whole or in two reads."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.held.endswith(b"}"):
            self.transport.write(STREAM if b'"stream":true' in self.held else WHOLE)
            self.held = b""


class Asker(asyncio.Protocol):
    """One connection that asks as soon as it is answered."""

    def __init__(self, request: bytes, *, streamed: bool) -> None:
        self.request = request
        self.streamed = streamed
        self.transport: asyncio.Transport
        self.answers = 0
        self.need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.streamed:
            done = data.endswith(b"0\r\n\r\n")
        else:
            if not self.need:
                self.need = data.index(b"\r\n\r\n") + 4 + 600
            self.need -= len(data)
            done = not self.need
        if done:
            self.answers += 1
            self.transport.write(self.request)


def request_of(port: int, *, streamed: bool) -> bytes:
    """A request as the OpenAI client for Python sends it, 1 KB of body."""
    body = json.dumps(
        {"model": "mock", "stream": streamed, "prompt": "x" * 960}, separators=(",", ":")
    )
    head = [
        f"POST {PATH} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        "Accept: application/json",
        "Content-Type: application/json",
        "User-Agent: OpenAI/Python 3.54.0",
        "X-Stainless-Lang: python",
        "X-Stainless-Package-Version: 3.54.0",
        "X-Stainless-OS: Linux",
        "X-Stainless-Runtime-Version: 3.11.7",
        "Authorization: Bearer pk_0123456789abcdef0123456789abcdef",
        "X-Stainless-Async: false",
        "x-stainless-retry-count: 0",
        f"Content-Length: {len(body)}",
        "",
        body,
    ]
    return "\r\n".join(head).encode()


async def mock(port: int) -> None:
    """The engine, until SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    async with await loop.create_server(Mock, HOST, port):
        print("ready", flush=True)
        await stopped.wait()


async def load(port: int, pid: int, *, streamed: bool) -> tuple[int, float]:
    """(answers, CPU ms of process `pid` for them)."""
    loop = asyncio.get_running_loop()
    request = request_of(port, streamed=streamed)
    askers: list[Asker] = []
    for _ in range(CONNECTIONS):
        _, asker = await loop.create_connection(
            lambda: Asker(request, streamed=streamed), HOST, port
        )
        askers.append(asker)
    await asyncio.sleep(WARM_S)
    answers, cpu = sum(one.answers for one in askers), cpu_ms(pid)
    await asyncio.sleep(SECONDS)
    answers, cpu = sum(one.answers for one in askers) - answers, cpu_ms(pid) - cpu
    for one in askers:
        one.transport.abort()
    return answers, cpu


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return cast("int", sock.getsockname()[1])


@contextmanager
def started(core: int, *argv: str) -> Iterator[int]:
    """A Python process on one core, ready; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", *argv],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - no threads here
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def measure(kind: str, *, streamed: bool) -> tuple[int, float]:
    """(answers per second, CPU us per answer) of one kind of relay."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        to_port, port = free_port(), free_port()
        stack.enter_context(started(cores[0], "bench.wire", "mock", str(to_port)))
        pid = stack.enter_context(started(cores[-1], "bench.pipe", str(port), str(to_port), kind))
        os.sched_setaffinity(0, {cores[0]})
        try:
            answers, cpu = uvloop.run(load(port, pid, streamed=streamed))
        finally:
            os.sched_setaffinity(0, set(cores))
    return round(answers / SECONDS), cpu * 1000 / max(answers, 1)


def main() -> None:
    """One table, all in one run."""
    print(f"{'relay':8} {'us/request':>10} {'req/s':>8} {'us/chunk':>9} {'us/stream':>10}")
    for kind in sys.argv[1:] or KINDS:
        rate, whole_us = measure(kind, streamed=False)
        _, stream_us = measure(kind, streamed=True)
        chunk_us = stream_us / CHUNKS
        print(f"{kind:8} {whole_us:10.1f} {rate:8} {chunk_us:9.2f} {stream_us:10.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["mock"]:
        uvloop.run(mock(int(sys.argv[2])))
    else:
        began = time.perf_counter()
        main()
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
