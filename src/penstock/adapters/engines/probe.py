"""Ask a running OpenAI-compatible server what it can do, with about thirty tiny requests.

Servers differ in what they accept and silently ignore (transformers' drops `logprobs` and
`response_format`, llama.cpp knows no embeddings unless told), so an answer counts only when it
shows the effect. Nothing is trusted from version numbers or documentation.
"""

from dataclasses import dataclass
from typing import Any

from penstock.adapters.engines.asker import (
    Asker,
    Checks,
    chat_body,
    decoded,
    dig,
    parsed,
    seen_by,
)
from penstock.adapters.engines.probe_cache import CacheProbe
from penstock.adapters.engines.probe_media import MediaProbe
from penstock.kit.engine import Capability
from penstock.kit.wire.client import ClientLimits
from penstock.kit.wire.http import JSON_HEADERS

# llama.cpp promises keep-alive and closes all the same after a streamed answer, after any error and
# after 5 s of rest, so a reused connection may die under a POST. On loopback a new one costs 0.1 ms.
FRESH_LINKS = ClientLimits(idle_max=0)
OTHER_SEEDS = (8, 9, 10)
STORY = "Tell me a story about a fox."
STORY_TOKENS, STOPPED_CHARS_MIN, STOP_CHARS = 32, 8, 3
DIMENSIONS = 8
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
OK_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "ok", "schema": OK_SCHEMA, "strict": True},
}
SUFFIX = " and that was the end of the long story that I wanted to tell you."


class NothingServed(Exception):
    """Nothing gave an answer; `why` is the last error body."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class Probe(Asker):
    """The questions. Methods raise kit's WireError when the server is gone."""

    is_llama: bool = False
    """Its tokenizer has llama.cpp's routes, not vLLM's."""

    async def capabilities(self) -> frozenset[Capability]:
        """Everything seen to work. Raises NothingServed."""
        media = MediaProbe(self)
        bases: Checks = {
            Capability.CHAT: self.sees_chat,
            Capability.COMPLETIONS: self.sees_completions,
            Capability.EMBEDDINGS: self.sees_embeddings,
            Capability.RERANK: self.sees_rerank,
            Capability.MODERATION: self.sees_moderation,
            **media.checks(),
        }
        seen = await seen_by(bases)
        if not seen:
            raise NothingServed(self.last_error)
        if Capability.CHAT in seen:
            cache = CacheProbe(self)
            seen |= await seen_by(
                {
                    Capability.STREAM: self.sees_stream,
                    Capability.N: self.sees_n,
                    Capability.STOP: self.sees_stop,
                    Capability.PROMPT_LOGPROBS: self.sees_prompt_logprobs,
                    **(cache.slots() if self.is_llama else cache.salts()),
                    Capability.LOGPROBS: self.sees_logprobs,
                    Capability.JSON_SCHEMA: self.sees_json_schema,
                    Capability.TOOLS: self.sees_tools,
                    Capability.TOOL_CHOICE: self.sees_tool_choice,
                    Capability.SEED: self.sees_seed,
                }
            )
        if seen & {Capability.CHAT, Capability.COMPLETIONS}:
            seen |= await seen_by(
                {
                    Capability.ECHO: self.sees_echo,
                    Capability.TOKENIZE: self.sees_tokenize,
                    Capability.TEMPLATE: self.sees_template,
                }
            )
        if Capability.COMPLETIONS in seen:
            seen |= await seen_by(
                {
                    Capability.SUFFIX: self.sees_suffix,
                    Capability.COMPLETION_FORMAT: self.sees_completion_format,
                }
            )
        if Capability.EMBEDDINGS in seen:
            seen |= await seen_by({Capability.DIMENSIONS: self.sees_dimensions})
        return frozenset(seen | await seen_by(media.extras(seen)))

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

    async def sees_dimensions(self) -> bool:
        """Engines that do not know the field give the whole vector all the same."""
        reply = await self.post("/v1/embeddings", {"input": "Hello", "dimensions": DIMENSIONS})
        vector = dig(decoded(reply), "data", 0, "embedding")
        return isinstance(vector, list) and len(vector) == DIMENSIONS

    async def sees_rerank(self) -> bool:
        body = {"query": "water", "documents": ["dry land", "water"]}
        reply = await self.post("/v1/rerank", body)
        results = dig(decoded(reply), "results")
        return isinstance(results, list) and len(results) == 2

    async def sees_moderation(self) -> bool:
        reply = await self.post("/v1/moderations", {"input": "Hello"})
        return isinstance(dig(decoded(reply), "results", 0, "flagged"), bool)

    async def sees_echo(self) -> bool:
        """Log-probabilities of the prompt, which start with none for its first token."""
        body = {"prompt": "Hello there", "max_tokens": 1, "echo": True, "logprobs": 1}
        choice = dig(decoded(await self.post("/v1/completions", body)), "choices", 0)
        text, known = dig(choice, "text"), dig(choice, "logprobs", "token_logprobs")
        is_said = isinstance(text, str) and text.startswith("Hello there")
        return is_said and isinstance(known, list) and len(known) > 2 and known[0] is None

    async def sees_suffix(self) -> bool:
        """A suffix that is not part of the prompt was dropped."""
        plain = await self.prompt_tokens({})
        return plain is not None and (await self.prompt_tokens({"suffix": SUFFIX}) or 0) > plain

    async def prompt_tokens(self, fields: dict[str, Any]) -> int | None:
        body = {"prompt": "Hello", "max_tokens": 1, **fields}
        count = dig(decoded(await self.post("/v1/completions", body)), "usage", "prompt_tokens")
        return count if isinstance(count, int) else None

    async def sees_completion_format(self) -> bool:
        body = {"prompt": "Hello", "max_tokens": 64, "temperature": 0, "response_format": OK_FORMAT}
        text = dig(decoded(await self.post("/v1/completions", body)), "choices", 0, "text")
        return isinstance(text, str) and isinstance(dig(parsed(text), "ok"), bool)

    async def sees_tokenize(self) -> bool:
        """There and back again."""
        field = "content" if self.is_llama else "prompt"
        tokens = dig(decoded(await self.post("/tokenize", {field: "Hello"})), "tokens")
        if not isinstance(tokens, list) or not tokens:
            return False
        back = decoded(await self.post("/detokenize", {"tokens": tokens}))
        return "Hello" in str(dig(back, field))

    async def sees_template(self) -> bool:
        turns = {"messages": [{"role": "user", "content": "Hello"}]}
        if self.is_llama:
            reply = await self.post("/apply-template", turns)
            return "Hello" in str(dig(decoded(reply), "prompt"))
        return bool(dig(decoded(await self.post("/tokenize", turns)), "tokens"))

    async def sees_stream(self) -> bool:
        body = chat_body("Hello!", max_tokens=2, stream=True)
        reply = await self.post("/v1/chat/completions", body)
        return reply.status == 200 and reply.body.rstrip().endswith(b"data: [DONE]")

    async def sees_logprobs(self) -> bool:
        choice = await self.first_choice("Hello!", max_tokens=1, logprobs=True, top_logprobs=1)
        return isinstance(dig(choice, "logprobs", "content", 0, "logprob"), float | int)

    async def sees_json_schema(self) -> bool:
        choice = await self.first_choice("Is water wet?", max_tokens=64, response_format=OK_FORMAT)
        content = dig(choice, "message", "content")
        return isinstance(content, str) and isinstance(dig(parsed(content), "ok"), bool)

    async def sees_tools(self) -> bool:
        """A call where one is due, or at least where one is demanded."""
        return await self.calls_tool() or await self.calls_tool(tool_choice="required")

    async def sees_tool_choice(self) -> bool:
        """Nobody would call a tool for a greeting."""
        return await self.calls_tool("Hello!", tool_choice="required")

    async def calls_tool(
        self, question: str = "What is the weather in Oslo?", **fields: object
    ) -> bool:
        choice = await self.first_choice(question, max_tokens=256, tools=[WEATHER_TOOL], **fields)
        return dig(choice, "message", "tool_calls", 0, "function", "name") == "get_weather"

    async def sees_n(self) -> bool:
        # vLLM refuses to say the same twice, so it is not asked greedily.
        body = chat_body("Hello!", max_tokens=2, n=2) | {"temperature": 1}
        reply = decoded(await self.post("/v1/chat/completions", body))
        return dig(reply, "choices", 1, "index") == 1 and dig(reply, "choices", 2) is None

    async def sees_stop(self) -> bool:
        """What it says unhindered is cut before its own second half."""
        whole = said(await self.first_choice(STORY, max_tokens=STORY_TOKENS))
        if len(whole) < STOPPED_CHARS_MIN:
            return False
        middle = len(whole) // 2
        stop = whole[middle : middle + STOP_CHARS]
        cut = await self.first_choice(STORY, max_tokens=STORY_TOKENS, stop=[stop])
        return said(cut) == whole[: whole.index(stop)]

    async def sees_prompt_logprobs(self) -> bool:
        body = chat_body("Hello there", max_tokens=1, prompt_logprobs=1)
        told = dig(decoded(await self.post("/v1/chat/completions", body)), "prompt_logprobs")
        return isinstance(told, list) and len(told) > 1 and isinstance(told[1], dict)

    async def answers(self, path: str, word: str) -> bool:
        """Is there such a control route? A web framework's own 404 does not speak of `word`."""
        reply = await self.send(path, b"{}", headers=JSON_HEADERS)
        return reply.status == 200 or word in reply.body.decode(errors="replace").lower()

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


def said(choice: object) -> str:
    """The text of a chat's answer; of one that is still thinking, its thoughts."""
    for name in ("content", "reasoning_content", "reasoning"):
        text = dig(choice, "message", name)
        if isinstance(text, str) and text:
            return text
    return ""
