"""Chat's answer as Anthropic's: the message, and its stream of events."""

from typing import Any

import msgspec

from penstock.gateway.dialects.blocks import Block, Kind, blocks_of, is_object
from penstock.gateway.dialects.chat_answer import (
    Counts,
    Ending,
    Logprobs,
    ending_of,
    read_answer,
)
from penstock.gateway.dialects.envelopes import anthropic_envelope
from penstock.gateway.dialects.stream import Envelope

SIGNATURE = "unsigned"
"""Thinking blocks carry a signature, without which clients do not send them back. Ours proves nothing."""

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}

_encode = msgspec.json.Encoder().encode


def whole_message(
    answer: bytes, *, request_id: str, model: str, stops: frozenset[str], shows_thinking: bool
) -> bytes:
    """A Message from a whole chat answer. Raises AnswerUnreadable."""
    chat, choice = read_answer(answer)
    blocks = blocks_of(choice, request_id)
    ending = ending_of(chat, choice)
    message = message_of(request_id, chat.model or model)
    message["content"] = [_content(block, shows_thinking=shows_thinking) for block in blocks]
    message |= _stop(blocks, ending, stops)
    message["usage"] = _usage(ending.counts)
    return _encode(message)


def message_of(request_id: str, model: str) -> dict[str, Any]:
    """A Message with nothing in it yet."""
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": _usage(Counts()),
    }


class MessagesScribe:
    """Anthropic's stream of events (each is named by its type)."""

    __slots__ = ("_model", "_request_id", "_shows_thinking", "_stops")

    def __init__(
        self, request_id: str, *, model: str, stops: frozenset[str], shows_thinking: bool
    ) -> None:
        self._request_id = request_id
        self._model = model
        self._stops = stops
        self._shows_thinking = shows_thinking

    def start(self, model: str | None) -> bytes:
        message = message_of(self._request_id, model or self._model)
        ping = b'event: ping\ndata: {"type":"ping"}\n\n'
        return _event("message_start", {"message": message}) + ping

    def begin(self, block: Block) -> bytes:
        if block.kind is Kind.REASONING:
            content: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
        elif block.kind is Kind.CALL:
            content = {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
        else:
            content = {"type": "text", "text": ""}
        return _event("content_block_start", {"index": block.place, "content_block": content})

    def more(self, block: Block, text: str, *, logprobs: Logprobs | None) -> bytes:
        del logprobs  # this dialect has none
        if block.kind is Kind.CALL:
            delta = b'{"type":"input_json_delta","partial_json":%b}' % _encode(text)
        elif block.kind is Kind.REASONING:
            if not self._shows_thinking:
                return b""
            delta = b'{"type":"thinking_delta","thinking":%b}' % _encode(text)
        else:
            delta = b'{"type":"text_delta","text":%b}' % _encode(text)
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
            % (block.place, delta)
        )

    def finish(self, block: Block, *, is_cut: bool) -> bytes:
        del is_cut  # only the stop reason tells
        signed = b""
        if block.kind is Kind.REASONING:
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = _event("content_block_delta", {"index": block.place, "delta": delta})
        return signed + _event("content_block_stop", {"index": block.place})

    def stop(self, blocks: list[Block], ending: Ending) -> bytes:
        delta = _stop(blocks, ending, self._stops)
        said = _event("message_delta", {"delta": delta, "usage": _usage(ending.counts)})
        return said + _event("message_stop", {})

    def fail(self, blocks: list[Block], envelope: Envelope) -> bytes:
        del blocks  # an error ends the stream, whatever is open
        error = anthropic_envelope(envelope, status=None, request_id=self._request_id)
        return b"event: error\ndata: %b\n\n" % _encode(error)


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), _encode({"type": name, **fields}))


def _content(block: Block, *, shows_thinking: bool) -> dict[str, Any]:
    text = block.text()
    if block.kind is Kind.REASONING:
        thinking = text if shows_thinking else ""
        return {"type": "thinking", "thinking": thinking, "signature": SIGNATURE}
    if block.kind is Kind.CALL:
        given = _input(text)
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": given}
    return {"type": "text", "text": text}


def _input(arguments: str) -> msgspec.Raw | dict[str, str]:
    """The arguments as an object; what was cut, or never was one, is handed on as it is."""
    if is_object(arguments):
        return msgspec.Raw(arguments.encode())
    return {"partial_json": arguments} if arguments.strip() else {}


def _stop(blocks: list[Block], ending: Ending, stops: frozenset[str]) -> dict[str, Any]:
    sequence = ending.stop_text if ending.stop_text in stops else None
    if ending.finish in _STOP_REASONS:
        reason = _STOP_REASONS[ending.finish]
    elif any(block.kind is Kind.CALL for block in blocks):
        reason = "tool_use"
    elif any(block.kind is Kind.REFUSAL for block in blocks):
        reason = "refusal"
    else:
        reason = "stop_sequence" if sequence is not None else "end_turn"
    return {
        "stop_reason": reason,
        "stop_sequence": sequence if reason == "stop_sequence" else None,
        "stop_details": None,
    }


def _usage(counts: Counts) -> dict[str, Any]:
    """Anthropic counts what came from the cache apart from the rest of the input."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
    }
