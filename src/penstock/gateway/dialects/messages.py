"""Anthropic's Messages API over chat: `POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from penstock.gateway.bodies import CHAT_PATH
from penstock.gateway.dialects.envelopes import anthropic_error, anthropic_status, renamed
from penstock.gateway.dialects.errors import AnswerUnreadable
from penstock.gateway.dialects.messages_answer import MessagesScribe, whole_message
from penstock.gateway.dialects.messages_request import read_count, read_messages
from penstock.gateway.dialects.stream import ChatStream

MESSAGES_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
TOKENIZE_PATH = "/tokenize"

NAMES = {
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "chat_template_kwargs": "thinking",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "max_completion_tokens": "max_tokens",
}
"""Fields of the chat request by what they are called here."""


class _AnthropicErrors:
    """The errors of both paths."""

    __slots__ = ("_request_id",)

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def status(self, status: int) -> int:
        return anthropic_status(status)

    def error(self, status: int, envelope: Mapping[str, Any]) -> bytes:
        return anthropic_error(status, renamed(envelope, NAMES), request_id=self._request_id)


class MessagesTranslation(_AnthropicErrors):
    """One `POST /v1/messages`. Raises BadJson and BadRequest when it is made."""

    __slots__ = ("_asked", "_shows_thinking", "_stops", "_stream", "chat_body", "path")

    def __init__(self, body: bytes, *, request_id: str, now_s: Callable[[], int]) -> None:
        super().__init__(request_id)
        del now_s  # this dialect tells no time
        self.path = CHAT_PATH
        self._asked, self.chat_body = read_messages(body)
        thinking = self._asked.thinking
        self._shows_thinking = thinking is None or thinking.display != "omitted"
        self._stops = frozenset(self._asked.stop_sequences or ())
        scribe = MessagesScribe(
            request_id,
            model=self._asked.model,
            stops=self._stops,
            shows_thinking=self._shows_thinking,
        )
        self._stream = ChatStream(scribe, request_id)

    def whole(self, answer: bytes) -> bytes:
        return whole_message(
            answer,
            request_id=self._request_id,
            model=self._asked.model,
            stops=self._stops,
            shows_thinking=self._shows_thinking,
        )

    def feed(self, events: bytes) -> bytes:
        return self._stream.feed(events)

    def end(self) -> bytes:
        return self._stream.end()

    def error_event(self, envelope: Mapping[str, Any]) -> bytes:
        return self._stream.fail(renamed(envelope, NAMES))


class Tokenized(msgspec.Struct):
    """What a tokenizer answers: vLLM tells the count, others only the tokens."""

    count: int | None = None
    tokens: list[msgspec.Raw] | None = None


_tokenized = msgspec.json.Decoder(Tokenized)


class CountTranslation(_AnthropicErrors):
    """One `POST /v1/messages/count_tokens`; its answer is never a stream."""

    __slots__ = ("chat_body", "path")

    def __init__(self, body: bytes, *, request_id: str, now_s: Callable[[], int]) -> None:
        super().__init__(request_id)
        del now_s
        self.path = TOKENIZE_PATH
        self.chat_body = read_count(body)

    def whole(self, answer: bytes) -> bytes:
        try:
            told = _tokenized.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AnswerUnreadable(reason=str(error)) from error
        if told.count is None and told.tokens is None:
            raise AnswerUnreadable(reason="it has neither count nor tokens")
        count = told.count if told.count is not None else len(told.tokens or ())
        return msgspec.json.encode({"input_tokens": max(count, 0)})

    def feed(self, events: bytes) -> bytes:
        return events

    def end(self) -> bytes:
        return b""

    def error_event(self, envelope: Mapping[str, Any]) -> bytes:
        del envelope
        return b""
