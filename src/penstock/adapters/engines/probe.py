"""Ask a running OpenAI-compatible server what it can do, with about a dozen tiny requests.

Servers differ in what they accept and silently ignore (transformers' drops `logprobs` and
`response_format`, llama.cpp knows no embeddings unless told), so an answer counts only when it
shows the effect. Nothing is trusted from version numbers or documentation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.engine import Capability
from penstock.kit.wire.client import ClientLimits, HttpClient, Reply
from penstock.kit.wire.http import JSON_HEADERS

CALL_DEADLINE_MS = 60_000
# llama.cpp promises keep-alive and closes all the same after a streamed answer, after any error and
# after 5 s of rest, so a reused connection may die under a POST. On loopback a new one costs 0.1 ms.
FRESH_LINKS = ClientLimits(idle_max=0)
OTHER_SEEDS = (8, 9, 10)
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "get weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
OK_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


class NothingServed(Exception):
    """Neither chat nor completions nor embeddings gave an answer; `why` is the last error body."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class Probe:
    """Questions to one server about one model. Methods raise kit's WireError when it is gone."""

    client: HttpClient
    address: str
    model: str
    last_error: str = ""

    async def capabilities(self) -> frozenset[Capability]:
        """Everything seen to work. Raises NothingServed."""
        bases: dict[Capability, Callable[[], Awaitable[bool]]] = {
            Capability.CHAT: self.sees_chat,
            Capability.COMPLETIONS: self.sees_completions,
            Capability.EMBEDDINGS: self.sees_embeddings,
        }
        seen = {capability for capability, check in bases.items() if await check()}
        if not seen:
            raise NothingServed(self.last_error)
        if Capability.CHAT in seen:
            extras: dict[Capability, Callable[[], Awaitable[bool]]] = {
                Capability.STREAM: self.sees_stream,
                Capability.LOGPROBS: self.sees_logprobs,
                Capability.JSON_SCHEMA: self.sees_json_schema,
                Capability.TOOLS: self.sees_tools,
                Capability.SEED: self.sees_seed,
            }
            seen |= {capability for capability, check in extras.items() if await check()}
        return frozenset(seen)

    async def sees_chat(self) -> bool:
        choice = await self.first_choice("Hello!", max_tokens=1)
        return isinstance(dig(choice, "message", "role"), str)

    async def sees_completions(self) -> bool:
        body = {"prompt": "Hello", "max_tokens": 1, "temperature": 0}
        reply = await self.post("/v1/completions", body)
        return isinstance(dig(decoded(reply), "choices", 0, "text"), str)

    async def sees_embeddings(self) -> bool:
        reply = await self.post("/v1/embeddings", {"input": "Hello"})
        return bool(dig(decoded(reply), "data", 0, "embedding"))

    async def sees_stream(self) -> bool:
        body = chat_body("Hello!", max_tokens=2, stream=True)
        reply = await self.post("/v1/chat/completions", body)
        return reply.status == 200 and reply.body.rstrip().endswith(b"data: [DONE]")

    async def sees_logprobs(self) -> bool:
        choice = await self.first_choice("Hello!", max_tokens=1, logprobs=True, top_logprobs=1)
        return isinstance(dig(choice, "logprobs", "content", 0, "logprob"), float | int)

    async def sees_json_schema(self) -> bool:
        wanted = {"name": "ok", "schema": OK_SCHEMA, "strict": True}
        choice = await self.first_choice(
            "Is water wet?",
            max_tokens=64,
            response_format={"type": "json_schema", "json_schema": wanted},
        )
        content = dig(choice, "message", "content")
        return isinstance(content, str) and isinstance(dig(parsed(content), "ok"), bool)

    async def sees_tools(self) -> bool:
        choice = await self.first_choice(
            "What is the weather in Oslo?", max_tokens=256, tools=[WEATHER_TOOL]
        )
        return dig(choice, "message", "tool_calls", 0, "function", "name") == "get_weather"

    async def sees_seed(self) -> bool:
        """The same seed repeats a warm answer, and some other seed changes it."""
        one, again = await self.sampled(7), await self.sampled(7)
        if one is None or one != again:
            return False
        return any([await self.sampled(seed) != one for seed in OTHER_SEEDS])

    async def sampled(self, seed: int) -> object:
        choice = await self.first_choice(
            "Tell me a story.", max_tokens=24, temperature=1.5, seed=seed
        )
        return dig(choice, "message", "content")

    async def first_choice(self, question: str, **fields: object) -> object:
        reply = await self.post("/v1/chat/completions", chat_body(question, **fields))
        return dig(decoded(reply), "choices", 0)

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        reply = await self.client.call(
            "POST",
            self.address + path,
            headers=JSON_HEADERS,
            body=msgspec.json.encode({"model": self.model, **body}),
            deadline_ms=CALL_DEADLINE_MS,
        )
        if reply.status != 200:
            self.last_error = f"{path} answered {reply.status}: {reply.body[:300]!r}"
        return reply


def chat_body(question: str, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def decoded(reply: Reply) -> object:
    return parsed(reply.body) if reply.status == 200 else None


def parsed(text: bytes | str) -> object:
    """JSON, or None for what is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def dig(value: object, *path: str | int) -> object:
    """The value at a path of keys and indexes, or None where the path ends early."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value
