"""An engine whose answers a test writes, and the events it may stream."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from penstock.kit.engine import AlwaysOn, Capability, EngineExit, EngineFailed, EngineStats
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.kit.wire.server import Server

Answering = Callable[[Request], Awaitable[Response | Stream]]


class Scripted(AlwaysOn):
    """An engine whose answers a test writes: `handler` gets each request. Implements Engine."""

    def __init__(self, network: Any, handler: Answering) -> None:
        self._network = network
        self._handler = handler
        self._server: Server | None = None
        self._port = 0
        self.ended = asyncio.Event()
        self.fail_start = ""
        self.starts = 0
        self.stops = 0
        self.load = (0, 0)
        self.silent = False
        self.seen: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def model(self) -> str:
        return "engine-model"

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    async def start(self, *, deadline_ms: int) -> None:
        self.starts += 1
        if self.fail_start:
            raise EngineFailed(reason=self.fail_start, log_tail="", remedy="Try again.")
        self.ended.clear()

        async def answer(request: Request) -> Response | Stream:
            self.seen.append(msgspec.json.decode(request.body))
            return await self._handler(request)

        self._server = Server(self._network, answer, entropy=random.Random(5).randbytes)
        self._port = await self._server.start("127.0.0.1", 0)

    async def stats(self) -> EngineStats:
        if self.silent:
            await asyncio.Event().wait()
        return EngineStats(running=self.load[0], waiting=self.load[1], ready=True)

    async def wait_exit(self) -> EngineExit:
        await self.ended.wait()
        return EngineExit(wanted=False, reason="it crashed", log_tail="", remedy="")

    async def stop(self, *, deadline_ms: int) -> None:
        self.stops += 1
        await self.crash()

    async def crash(self) -> None:
        """Connections break and the process is gone."""
        if self._server is not None:
            await self._server.close(0)
        self.ended.set()


def chunk(text: str = "", **fields: Any) -> bytes:
    """One data event of a chat stream, as an engine spells it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": fields.pop("finish", None)}
    body = {"id": "e-1", "model": "engine-model", "choices": [choice], **fields}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def usage_chunk(prompt: int, completion: int, *, cached: int = 0) -> bytes:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    body = {"id": "e-1", "model": "engine-model", "choices": [], "usage": usage}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def streaming(*parts: bytes, hold: asyncio.Event | None = None, gone: Any = None) -> Any:
    """A handler that streams these parts; after them it waits for `hold`, if there is one."""

    async def body() -> AsyncIterator[bytes]:
        try:
            for part in parts:
                yield part
            if hold is not None:
                await hold.wait()
        finally:
            if gone is not None:
                gone.set()

    async def handler(_request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, body())

    return handler
