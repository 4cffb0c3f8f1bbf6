"""A simulated inference engine: what it says follows from the question, how well it behaves does not.

The echo engine of the adapters is honest and cannot die; and the simulator stands above the
stations, which never import adapters but in their `app.py`. So this one is written for adversity:
it crashes, slows down, refuses and lies about its tokens whenever its `Habits` say so.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.engine import AlwaysOn, Capability, EngineExit, EngineFailed, EngineStats
from penstock.kit.ports import Entropy, Network
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server

KIND = "sim"
MODEL = "sim-model"
HOST = "127.0.0.1"
WORDS = ("river", "gate", "pipe", "turbine", "spill", "head", "flow", "shaft", "weir", "dam")
WORDS_MAX = 24
DONE = b"data: [DONE]\n\n"

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Habits:
    """How the engines of one miner behave; adversaries change it while they run.

    `claimed_ppm`: how many tokens it claims, in ppm of those it made.
    """

    token_us: int = 20_000
    first_us: int = 50_000
    start_ms: int = 500
    slots_max: int = 4
    claimed_ppm: int = 1_000_000
    refuses: bool = False


def answer_words(text: str, tokens_max: int | None) -> list[str]:
    """What every honest engine answers to this text: anybody can check it."""
    digest = hashlib.sha256(text.encode()).digest()
    count = 1 + digest[0] % WORDS_MAX
    words = [WORDS[digest[1 + index % 30] % len(WORDS)] for index in range(count)]
    return words if tokens_max is None else words[:tokens_max]


def asked_text(fields: dict[str, Any]) -> str:
    """All that a chat request says."""
    return "\n".join(str(one.get("content", "")) for one in fields["messages"])


def vector_of(text: str) -> list[int]:
    """A text's embedding: small integers, so that every machine spells them alike."""
    return list(hashlib.sha256(text.encode()).digest()[:8])


class SimEngine(AlwaysOn):
    """Implements `kit.engine.Engine` on the network of its miner's host."""

    def __init__(self, habits: Habits, *, network: Network, entropy: Entropy) -> None:
        self.habits = habits
        self.running = 0
        self._server = Server(network, self._routes(), entropy=entropy)
        self._port = 0
        self._ended = asyncio.Event()
        self._is_wanted = False

    @property
    def address(self) -> str:
        """Where it listens, once started."""
        return f"http://{HOST}:{self._port}"

    @property
    def model(self) -> str:
        """The only model here."""
        return MODEL

    @property
    def capabilities(self) -> frozenset[Capability]:
        """It can do what people here ask."""
        return frozenset({Capability.CHAT, Capability.STREAM, Capability.EMBEDDINGS})

    async def start(self, *, deadline_ms: int) -> None:
        """Raises EngineFailed."""
        assert self.habits.start_ms < deadline_ms, "it starts in time"
        await asyncio.sleep(self.habits.start_ms / 1000)
        try:
            self._port = await self._server.start(HOST, 0)
        except OSError as error:
            raise EngineFailed(
                reason=f"The engine did not start: {error}.", log_tail="", remedy="Wait."
            ) from error

    async def stats(self) -> EngineStats:
        """What runs now."""
        return EngineStats(running=self.running, waiting=0, ready=not self._ended.is_set())

    async def wait_exit(self) -> EngineExit:
        """Until `stop` or `crash`."""
        await self._ended.wait()
        return EngineExit(wanted=self._is_wanted, reason="It ended.", log_tail="", remedy="")

    async def stop(self, *, deadline_ms: int) -> None:
        """End in order. Twice is harmless."""
        self._is_wanted = True
        if not self._ended.is_set():
            await self._server.close(deadline_ms)
            self._ended.set()

    async def crash(self) -> None:
        """The process is gone: all its connections break at once."""
        if not self._ended.is_set():
            await self._server.close(0)
            self._ended.set()

    def _routes(self) -> Routes:
        routes = Routes()
        routes.add("POST", "/v1/chat/completions", self._chat)
        routes.add("POST", "/v1/embeddings", self._embed)
        return routes

    def _refusal(self) -> Response | None:
        if self.habits.refuses or self.running >= self.habits.slots_max:
            return problem(503, "engine_full", "No slot is free.")
        return None

    async def _chat(self, request: Request) -> Response | Stream:
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        fields = _decode(request.body)
        words = answer_words(asked_text(fields), fields.get("max_tokens"))
        usage = self._usage(asked_text(fields), len(words))
        if fields.get("stream"):
            self.running += 1
            return Stream(200, SSE_HEADERS, self._events(words, usage))
        self.running += 1
        try:
            await asyncio.sleep((self.habits.first_us + len(words) * self.habits.token_us) / 1e6)
        finally:
            self.running -= 1
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json_response(200, {**_frame(), "choices": [choice], "usage": usage})

    async def _embed(self, request: Request) -> Response:
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        texts = _decode(request.body)["input"]
        self.running += 1
        try:
            await asyncio.sleep(self.habits.first_us / 1e6)
        finally:
            self.running -= 1
        data = [
            {"object": "embedding", "index": index, "embedding": vector_of(text)}
            for index, text in enumerate(texts)
        ]
        usage = self._usage(" ".join(texts), 0)
        return json_response(200, {"object": "list", "model": MODEL, "data": data, "usage": usage})

    async def _events(self, words: list[str], usage: dict[str, int]) -> AsyncIterator[bytes]:
        try:
            await asyncio.sleep(self.habits.first_us / 1e6)
            for index, word in enumerate(words):
                text = word if index == 0 else f" {word}"
                yield _event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])
                await asyncio.sleep(self.habits.token_us / 1e6)
            yield _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            yield _event([], usage=usage)
            yield DONE
        finally:
            self.running -= 1

    def _usage(self, text: str, completion: int) -> dict[str, int]:
        prompt = len(text.split())
        claimed = completion * self.habits.claimed_ppm // 1_000_000
        return {
            "prompt_tokens": prompt,
            "completion_tokens": claimed,
            "total_tokens": prompt + claimed,
        }


def _frame() -> dict[str, Any]:
    return {"id": "s-1", "object": "chat.completion", "created": 0, "model": MODEL}


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return b"data: " + _encode({**_frame(), "choices": choices, **more}) + b"\n\n"
