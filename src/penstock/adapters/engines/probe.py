"""Ask a running OpenAI-compatible server what it can do, with about thirty tiny requests.

Servers differ in what they accept and silently ignore (transformers' drops `logprobs` and
`response_format`, llama.cpp knows no embeddings unless told), so an answer counts only when it
shows the effect. Nothing is trusted from version numbers or documentation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.engine import Capability
from penstock.kit.multipart import Part, file_part, form_of, text_part
from penstock.kit.wire.client import ClientLimits, HttpClient, Reply
from penstock.kit.wire.http import JSON_HEADERS, Headers

CALL_DEADLINE_MS = 60_000
# llama.cpp promises keep-alive and closes all the same after a streamed answer, after any error and
# after 5 s of rest, so a reused connection may die under a POST. On loopback a new one costs 0.1 ms.
FRESH_LINKS = ClientLimits(idle_max=0)
OTHER_SEEDS = (8, 9, 10)
DIMENSIONS = 8
VOICE = "alloy"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
SILENCE_RATE_HZ = 16_000
SILENCE_SAMPLES = 8_000
Checks = dict[Capability, Callable[[], Awaitable[bool]]]
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
class Probe:
    """Questions to one server about one model. Methods raise kit's WireError when it is gone."""

    client: HttpClient
    address: str
    model: str
    is_llama: bool = False
    """Its tokenizer has llama.cpp's routes, not vLLM's."""
    last_error: str = ""

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
            seen |= await seen_by(
                {
                    Capability.STREAM: self.sees_stream,
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
        return await self.send(
            path, msgspec.json.encode({"model": self.model, **body}), headers=JSON_HEADERS
        )

    async def send(self, path: str, body: bytes, *, headers: Headers) -> Reply:
        reply = await self.client.call(
            "POST",
            self.address + path,
            headers=headers,
            body=body,
            deadline_ms=CALL_DEADLINE_MS,
        )
        if reply.status != 200:
            self.last_error = f"{path} answered {reply.status}: {reply.body[:300]!r}"
        return reply


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """Pictures and sounds, asked of the same server."""

    probe: Probe

    def checks(self) -> Checks:
        """What a server can do by itself."""
        return {
            Capability.IMAGES: self.sees_images,
            Capability.SPEECH: self.sees_speech,
            Capability.TRANSCRIPTION: lambda: self.hears(TRANSCRIPTIONS_PATH),
            Capability.TRANSLATION: lambda: self.hears(TRANSLATIONS_PATH),
        }

    def extras(self, seen: set[Capability]) -> Checks:
        """What it may be able to do besides."""
        extras: Checks = {}
        if Capability.IMAGES in seen and Capability.CHAT not in seen:
            extras[Capability.SEED] = self.sees_image_seed
        if Capability.SPEECH in seen:
            extras[Capability.SPEECH_STREAM] = self.sees_speech_stream
        if Capability.TRANSCRIPTION in seen:
            extras[Capability.TRANSCRIPTION_STREAM] = self.sees_transcript_stream
        return extras

    async def sees_images(self) -> bool:
        body = {"prompt": "water", "n": 1, "response_format": "b64_json"}
        reply = await self.probe.post("/v1/images/generations", body)
        return isinstance(dig(decoded(reply), "data", 0, "b64_json"), str)

    async def sees_image_seed(self) -> bool:
        """The same seed draws the same picture, and another seed another one."""
        one, again, other = [await self.drawn(seed) for seed in (7, 7, 8)]
        return one is not None and one == again and one != other

    async def drawn(self, seed: int) -> object:
        body = {"prompt": "water", "response_format": "b64_json", "seed": seed}
        reply = await self.probe.post("/v1/images/generations", body)
        return dig(decoded(reply), "data", 0, "b64_json")

    async def sees_speech(self) -> bool:
        reply = await self.probe.post(SPEECH_PATH, {"input": "Hello", "voice": VOICE})
        kind = reply.header("content-type")
        is_sound = kind.startswith("audio/") or kind == "application/octet-stream"
        return reply.status == 200 and bool(reply.body) and is_sound

    async def sees_speech_stream(self) -> bool:
        body = {"input": "Hello", "voice": VOICE, "stream_format": "sse"}
        reply = await self.probe.post(SPEECH_PATH, body)
        return reply.status == 200 and b"speech.audio.done" in reply.body

    async def hears(self, path: str) -> bool:
        return isinstance(dig(decoded(await self._upload(path)), "text"), str)

    async def sees_transcript_stream(self) -> bool:
        reply = await self._upload(TRANSCRIPTIONS_PATH, text_part("stream", "true"))
        return reply.status == 200 and b"transcript.text.done" in reply.body

    async def _upload(self, path: str, *parts: Part) -> Reply:
        """Half a second of silence."""
        upload = file_part("file", "silence.wav", silence(), content_type="audio/wav")
        form = form_of([upload, text_part("model", self.probe.model), *parts])
        headers = (("content-type", form.content_type()),)
        return await self.probe.send(path, form.body(), headers=headers)


def silence() -> bytes:
    """A WAV: half a second at 16 kHz, which every recogniser takes."""
    size = SILENCE_SAMPLES * 2
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt "
    shape = (16, 1 | 1 << 16, SILENCE_RATE_HZ, 2 * SILENCE_RATE_HZ, 2 | 16 << 16)
    fields = b"".join(value.to_bytes(4, "little") for value in shape)
    return head + fields + b"data" + size.to_bytes(4, "little") + bytes(size)


async def seen_by(checks: Checks) -> set[Capability]:
    """The capabilities whose check succeeds, asked one after the other."""
    return {capability for capability, check in checks.items() if await check()}


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
