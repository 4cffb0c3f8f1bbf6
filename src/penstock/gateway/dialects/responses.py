"""OpenAI's Responses API over chat, without state: `POST /v1/responses`."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from penstock.gateway.bodies import CHAT_PATH
from penstock.gateway.dialects.envelopes import renamed
from penstock.gateway.dialects.responses_answer import ResponseMaker
from penstock.gateway.dialects.responses_request import read_responses
from penstock.gateway.dialects.responses_stream import ResponsesScribe
from penstock.gateway.dialects.stream import ChatStream

RESPONSES_PATH = "/v1/responses"

NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
}
"""Fields of the chat request by what they are called here."""


class ResponsesTranslation:
    """One `POST /v1/responses`. Raises BadJson and BadRequest when it is made."""

    __slots__ = ("_maker", "_stream", "chat_body", "path")

    def __init__(self, body: bytes, *, request_id: str, now_s: Callable[[], int]) -> None:
        self.path = CHAT_PATH
        asked, self.chat_body = read_responses(body)
        self._maker = ResponseMaker(asked, request_id=request_id, now_s=now_s)
        self._stream = ChatStream(ResponsesScribe(self._maker), request_id)

    def whole(self, answer: bytes) -> bytes:
        return self._maker.whole(answer)

    def feed(self, events: bytes) -> bytes:
        return self._stream.feed(events)

    def end(self) -> bytes:
        return self._stream.end()

    def status(self, status: int) -> int:
        return status

    def error(self, status: int, envelope: Mapping[str, Any]) -> bytes:
        del status  # the envelope is this dialect's own
        return msgspec.json.encode(renamed(envelope, NAMES))

    def error_event(self, envelope: Mapping[str, Any]) -> bytes:
        return self._stream.fail(renamed(envelope, NAMES))
