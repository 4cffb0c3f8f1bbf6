"""Chat answers as the engine side gives them, whole and in chunks, read by type and in part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.gateway.dialects.errors import AnswerUnreadable

Logprobs = list[dict[str, Any]]


class FunctionText(msgspec.Struct):
    """A function call, or a piece of one."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call, or a piece of one. Only chunks have an `index`."""

    index: int | None = None
    id: str | None = None
    function: FunctionText | None = None


class Words(msgspec.Struct):
    """A message, or a delta of one. Engines spell the reasoning in two ways."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None

    def thoughts(self) -> str:
        """The reasoning, however the engine spells it."""
        return self.reasoning_content or self.reasoning or ""


class TokenLogprobs(msgspec.Struct):
    """Log probabilities of a choice's tokens."""

    content: Logprobs | None = None


class Choice(msgspec.Struct):
    """One answer of several. vLLM names the stop sequence in `stop_reason`, SGLang in `matched_stop`."""

    index: int = 0
    message: Words | None = None
    delta: Words | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | list[str | int] | None = None
    logprobs: TokenLogprobs | None = None

    def stop_text(self) -> str | None:
        """The stop sequence that ended the answer, if the engine tells."""
        for value in (self.stop_reason, self.matched_stop):
            if isinstance(value, str):
                return value
        return None

    def token_logprobs(self) -> Logprobs | None:
        """What the engine tells of each token, if it was asked to."""
        return self.logprobs.content if self.logprobs is not None else None


class CachedTokens(msgspec.Struct):
    """Part of the usage."""

    cached_tokens: int | None = None


class ReasoningTokens(msgspec.Struct):
    """Part of the usage."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """The engine's counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None
    completion_tokens_details: ReasoningTokens | None = None


class Chat(msgspec.Struct):
    """A chat completion or a chunk of one."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: dict[str, Any] | str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one answer. `cached` is part of `prompt`, `reasoning` of `completion`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: chat's finish reason, the stop sequence if one is known, the counts."""

    finish: str | None
    stop_text: str | None
    counts: Counts

    def is_cut(self) -> bool:
        """Did it stop before the model was done?"""
        return self.finish in {"length", "content_filter"}


decode_chat = msgspec.json.Decoder(Chat).decode


def read_answer(answer: bytes) -> tuple[Chat, Choice]:
    """A whole chat answer and its first choice. Raises AnswerUnreadable."""
    try:
        chat = decode_chat(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerUnreadable(reason=str(error)) from error
    choice = first_choice(chat.choices or ())
    if choice is None:
        raise AnswerUnreadable(reason="it has no choices")
    return chat, choice


def first_choice(choices: Sequence[Choice]) -> Choice | None:
    """The only choice that dialects with one answer can show."""
    for choice in choices:
        if choice.index == 0:
            return choice
    return None


def ending_of(chat: Chat, choice: Choice) -> Ending:
    """How a whole answer ended."""
    return Ending(choice.finish_reason, choice.stop_text(), counts_of(chat.usage))


def counts_of(usage: Usage | None) -> Counts:
    """The counts; what the engine left out, or said below zero, is 0."""
    if usage is None:
        return Counts()
    prompt = max(usage.prompt_tokens or 0, 0)
    completion = max(usage.completion_tokens or 0, 0)
    prompt_details = usage.prompt_tokens_details or CachedTokens()
    completion_details = usage.completion_tokens_details or ReasoningTokens()
    return Counts(
        prompt=prompt,
        cached=min(max(prompt_details.cached_tokens or 0, 0), prompt),
        completion=completion,
        reasoning=min(max(completion_details.reasoning_tokens or 0, 0), completion),
    )
