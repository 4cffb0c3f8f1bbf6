"""What the echo engine says: pure functions from request bodies to answers in OpenAI's dialect.

A token is a word; the answer is the last user message. Every answer follows from its question
alone, so that two runs, and two miners, give the same bytes.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from penstock.kit.wire.problem import Refusal, problem

MODEL = "echo"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")
TokensMax = Annotated[int, msgspec.Meta(ge=1)] | None
Body = dict[str, Any]


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class TextPart(msgspec.Struct):
    text: str = ""


class ChatMessage(msgspec.Struct):
    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class ChatQuestion(msgspec.Struct):
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokensMax = None
    max_completion_tokens: TokensMax = None
    seed: int | None = None


class CompletionQuestion(msgspec.Struct):
    prompt: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokensMax = None
    seed: int | None = None


class EmbeddingsQuestion(msgspec.Struct):
    input: str | Annotated[list[str], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its tokens (words with the space before them), counts, and how it is wanted."""

    kind: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    finish_reason: str
    wants_stream: bool
    wants_usage: bool

    def whole(self, answer_id: str) -> Body:
        text = "".join(self.tokens)
        choice: Body = {"index": 0, "finish_reason": self.finish_reason, "logprobs": None}
        if self.kind == "text_completion":
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text}
        return {**self._frame(answer_id, self.kind), "choices": [choice], "usage": self.usage()}

    def opening(self, answer_id: str) -> Iterator[bytes]:
        if self.kind != "text_completion":
            delta = {"role": "assistant", "content": ""}
            yield self._event(answer_id, {"delta": delta}, finish_reason=None)

    def delta(self, answer_id: str, token: str) -> bytes:
        part: Body = {"delta": {"content": token}}
        if self.kind == "text_completion":
            part = {"text": token}
        return self._event(answer_id, part, finish_reason=None)

    def closing(self, answer_id: str) -> Iterator[bytes]:
        part: Body = {"text": ""} if self.kind == "text_completion" else {"delta": {}}
        yield self._event(answer_id, part, finish_reason=self.finish_reason)
        if self.wants_usage:
            frame = self._frame(answer_id, self._event_kind())
            yield sse({**frame, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> Body:
        completion = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _event(self, answer_id: str, part: Body, *, finish_reason: str | None) -> bytes:
        choice = {"index": 0, **part, "finish_reason": finish_reason}
        return sse({**self._frame(answer_id, self._event_kind()), "choices": [choice]})

    def _event_kind(self) -> str:
        return self.kind if self.kind == "text_completion" else f"{self.kind}.chunk"

    def _frame(self, answer_id: str, kind: str) -> Body:
        # `created` would be the one field that differs between two runs; no client needs it.
        return {"id": answer_id, "object": kind, "created": 0, "model": MODEL}


def sse(body: Body) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def read_chat(body: bytes) -> Answer:
    """Raises Refusal (400) for what is no chat request."""
    question = understood(body, ChatQuestion)
    asked = [message.text() for message in question.messages if message.role == "user"]
    return built_answer(
        "chat.completion",
        echoed=asked[-1] if asked else "",
        prompt_tokens=sum(len(message.text().split()) for message in question.messages),
        tokens_max=question.max_completion_tokens or question.max_tokens,
        question=question,
    )


def read_completion(body: bytes) -> Answer:
    """Raises Refusal (400) for what is no completion request."""
    question = understood(body, CompletionQuestion)
    return built_answer(
        "text_completion",
        echoed=question.prompt,
        prompt_tokens=len(question.prompt.split()),
        tokens_max=question.max_tokens,
        question=question,
    )


def built_answer(
    kind: str,
    *,
    echoed: str,
    prompt_tokens: int,
    tokens_max: int | None,
    question: ChatQuestion | CompletionQuestion,
) -> Answer:
    words = echoed.split()
    kept = words if tokens_max is None else words[:tokens_max]
    options = question.stream_options
    return Answer(
        kind=kind,
        tokens=tuple(word if place == 0 else f" {word}" for place, word in enumerate(kept)),
        prompt_tokens=prompt_tokens,
        finish_reason="stop" if len(kept) == len(words) else "length",
        wants_stream=question.stream,
        wants_usage=options is not None and options.include_usage,
    )


def embeddings_answer(body: bytes) -> Body:
    """One unit vector a text, from the text's hash alone. Raises Refusal (400)."""
    question = understood(body, EmbeddingsQuestion)
    texts = [question.input] if isinstance(question.input, str) else question.input
    words = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "model": MODEL,
        "data": [
            {"object": "embedding", "index": index, "embedding": unit_vector(text)}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def unit_vector(text: str) -> list[float]:
    """32 numbers whose squares sum to 1. Equal texts give equal vectors; nothing else is meant."""
    values = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def models_answer() -> Body:
    entry = {"id": MODEL, "object": "model", "created": 0, "owned_by": "penstock"}
    return {"object": "list", "data": [entry]}


def understood(body: bytes, kind: type[T]) -> T:
    """The request body as `kind`; fields it does not know are ignored. Raises Refusal (400)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The request body is not understood: {error}."
        raise Refusal(problem(400, "body_invalid", message)) from error
