"""A chat stream, event by event, on its way into another dialect.

Comments (keep-alives, receipts) pass through verbatim and in place. What the miner sends is not
trusted: whatever it is, the client reads a legal stream of its dialect with one end.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from penstock.gateway.dialects.blocks import Block, BlockRow, BlockWriter, add_words
from penstock.gateway.dialects.chat_answer import (
    Choice,
    Counts,
    Ending,
    Usage,
    counts_of,
    decode_chat,
    first_choice,
)
from penstock.kit.errors import EventTooLarge
from penstock.kit.sse import EventSplitter, event_data, is_comment

ANSWER_BYTES_MAX = 64 << 20
"""Bytes of chat events that one answer may have: its text is kept until the end."""

Envelope = Mapping[str, Any]

_DONE = b"[DONE]"
_DATA = b"data: "
_CUT = "The answer was cut before its end. Try again."
_UNREADABLE = "The miner sent an event that is no chat completion chunk. Try again."
_TOO_LONG = "The answer is longer than the gateway translates. Ask for fewer tokens."
_FAILED = "The engine reported an error in mid-answer. Try again."


class Scribe(BlockWriter, Protocol):
    """A dialect's whole stream: its beginning, its blocks, and one of two ends."""

    def start(self, model: str | None) -> bytes: ...

    def stop(self, blocks: list[Block], ending: Ending) -> bytes: ...

    def fail(self, blocks: list[Block], envelope: Envelope) -> bytes:
        """The end of a stream that failed; it may not have been started."""
        ...


class ChatStream:
    """Feed it whole chat events, get the dialect's; `end()` closes what is not closed."""

    __slots__ = (
        "_bytes_left",
        "_counts",
        "_finish",
        "_is_closed",
        "_is_started",
        "_row",
        "_scribe",
        "_splitter",
        "_stop_text",
    )

    def __init__(self, scribe: Scribe, request_id: str) -> None:
        self._scribe = scribe
        self._row = BlockRow(scribe, request_id)
        self._splitter = EventSplitter()
        self._bytes_left = ANSWER_BYTES_MAX
        self._is_started = False
        self._is_closed = False
        self._finish: str | None = None
        self._stop_text: str | None = None
        self._counts = Counts()

    def feed(self, events: bytes) -> bytes:
        """The dialect's events for these of the chat stream; never raises."""
        try:
            parts = self._splitter.feed(events)
        except EventTooLarge:
            return self.fail(_server_error(_TOO_LONG))
        if len(parts) == 1:
            return self._event(parts[0])
        return b"".join([self._event(part) for part in parts])

    def end(self) -> bytes:
        """What closes the stream when no more comes: nothing after `[DONE]` or an error."""
        rest = self._splitter.finish()
        # Lines may end in a lone CR; anything else that is left is half an event, and no event.
        said = self._event(rest) if rest.endswith(b"\r") else b""
        if self._is_closed:
            return said
        if self._finish is not None:
            return said + self._close()
        return said + self.fail(_server_error(_CUT))

    def fail(self, envelope: Envelope) -> bytes:
        """The dialect's error as the stream's end; nothing if it has ended before."""
        if self._is_closed:
            return b""
        self._is_closed = True
        return self._scribe.fail(self._row.blocks, envelope)

    def _event(self, event: bytes) -> bytes:
        if event.startswith(_DATA) and event.find(b"\n") == len(event) - 2:
            return self._data(event[6:-2])
        if is_comment(event):
            return event
        lines = [line for line in event.splitlines() if line.startswith(b":")]
        kept = b"\n".join(lines) + b"\n\n" if lines else b""
        payload = event_data(event)
        return kept + self._data(payload) if payload else kept

    def _data(self, payload: bytes) -> bytes:
        if self._is_closed:
            return b""
        if payload == _DONE:
            return self._close()
        self._bytes_left -= len(payload)
        if self._bytes_left < 0:
            return self.fail(_server_error(_TOO_LONG))
        try:
            chat = decode_chat(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.fail(_server_error(_UNREADABLE))
        if chat.error is not None:
            return self.fail(_envelope(chat.error))
        out = b""
        if not self._is_started:
            out = self._start(chat.model)
        if chat.usage is not None:
            self._count(chat.usage)
        if chat.choices and (choice := first_choice(chat.choices)) is not None:
            out += self._choice(choice)
        return out

    def _choice(self, choice: Choice) -> bytes:
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason
            self._stop_text = choice.stop_text()
        if choice.delta is None:
            return b""
        return add_words(self._row, choice.delta, logprobs=choice.token_logprobs())

    def _count(self, usage: Usage) -> None:
        self._counts = counts_of(usage)

    def _start(self, model: str | None) -> bytes:
        self._is_started = True
        return self._scribe.start(model)

    def _close(self) -> bytes:
        if self._finish == "error":
            return self.fail(_server_error(_FAILED))
        out = b"" if self._is_started else self._start(None)
        self._is_closed = True
        ending = Ending(self._finish, self._stop_text, self._counts)
        out += self._row.close(is_cut=ending.is_cut())
        return out + self._scribe.stop(self._row.blocks, ending)


def _server_error(message: str) -> Envelope:
    return {"error": {"message": message, "type": "server_error", "code": "miner_failed"}}


def _envelope(error: dict[str, Any] | str) -> Envelope:
    return {"error": error if isinstance(error, dict) else {"message": error}}
