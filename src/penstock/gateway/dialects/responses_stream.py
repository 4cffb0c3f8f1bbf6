"""The stream of a Response: every event in OpenAI's order, numbered from 0."""

from typing import Any

import msgspec

from penstock.gateway.dialects.blocks import Block, Kind
from penstock.gateway.dialects.chat_answer import Ending, Logprobs
from penstock.gateway.dialects.envelopes import problem_of
from penstock.gateway.dialects.responses_answer import ResponseMaker, token_logprobs
from penstock.gateway.dialects.stream import Envelope

Fields = dict[str, Any]

_encode = msgspec.json.Encoder().encode


class ResponsesScribe:
    """Writes the events. One item is open at a time, with one content part."""

    __slots__ = ("_delta_head", "_is_started", "_maker", "_model", "_number")

    def __init__(self, maker: ResponseMaker) -> None:
        self._maker = maker
        self._model: str | None = None
        self._is_started = False
        self._number = 0
        self._delta_head = b""

    def start(self, model: str | None) -> bytes:
        self._is_started = True
        self._model = model
        response = self._maker.opened(model)
        created = self._event("response.created", {"response": response})
        return created + self._event("response.in_progress", {"response": response})

    def begin(self, block: Block) -> bytes:
        maker = self._maker
        item = maker.item(block, status="in_progress")
        added = self._event(
            "response.output_item.added", {"output_index": block.place, "item": item}
        )
        where = self._where(block)
        self._delta_head = _delta_head(self._name(block, "delta"), where)
        if block.kind is Kind.CALL:
            return added
        part = maker.part(block, is_empty=True)
        return added + self._event(self._part_name(block, "added"), {**where, "part": part})

    def more(self, block: Block, text: str, *, logprobs: Logprobs | None) -> bytes:
        number = self._number
        self._number = number + 1
        head = self._delta_head
        if block.kind is not Kind.TEXT:
            return b'%b"delta":%b,"sequence_number":%d}\n\n' % (head, _encode(text), number)
        tokens = _encode(token_logprobs(logprobs)) if logprobs else b"[]"
        return b'%b"delta":%b,"logprobs":%b,"sequence_number":%d}\n\n' % (
            head,
            _encode(text),
            tokens,
            number,
        )

    def finish(self, block: Block, *, is_cut: bool) -> bytes:
        maker = self._maker
        where = self._where(block)
        item = maker.item(block, status="incomplete" if is_cut else "completed")
        item_done = {"output_index": block.place, "item": item}
        out = self._event(self._name(block, "done"), {**where, **_said(block)})
        if block.kind is not Kind.CALL:
            part = {**where, "part": maker.part(block)}
            out += self._event(self._part_name(block, "done"), part)
        return out + self._event("response.output_item.done", item_done)

    def stop(self, blocks: list[Block], ending: Ending) -> bytes:
        response = self._maker.ended(blocks, ending, model=self._model)
        return self._event(f"response.{response['status']}", {"response": response})

    def fail(self, blocks: list[Block], envelope: Envelope) -> bytes:
        out = b"" if self._is_started else self.start(None)
        problem = problem_of(envelope)
        error = {"code": problem.code, "message": problem.message, "param": problem.param}
        out += self._event("error", error)
        response = self._maker.failed(blocks, problem.message, model=self._model)
        return out + self._event("response.failed", {"response": response})

    def _event(self, name: str, fields: Fields) -> bytes:
        event = {"type": name, **fields, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), _encode(event))

    def _where(self, block: Block) -> Fields:
        where: Fields = {"item_id": self._maker.item_id(block), "output_index": block.place}
        if block.kind is Kind.REASONING and self._maker.shows_summary:
            where["summary_index"] = 0
        elif block.kind is not Kind.CALL:
            where["content_index"] = 0
        return where

    def _name(self, block: Block, step: str) -> str:
        """The event that tells a block's text: `delta` a piece of it, `done` all."""
        match block.kind:
            case Kind.TEXT:
                return f"response.output_text.{step}"
            case Kind.REFUSAL:
                return f"response.refusal.{step}"
            case Kind.CALL:
                return f"response.function_call_arguments.{step}"
            case Kind.REASONING:
                kind = "reasoning_summary_text" if self._maker.shows_summary else "reasoning_text"
                return f"response.{kind}.{step}"

    def _part_name(self, block: Block, step: str) -> str:
        if block.kind is Kind.REASONING and self._maker.shows_summary:
            return f"response.reasoning_summary_part.{step}"
        return f"response.content_part.{step}"


def _delta_head(name: str, where: Fields) -> bytes:
    """The part of a delta that is the same for all of a block's, ready for the rest."""
    fields = _encode({"type": name, **where})
    return b"event: %b\ndata: %b," % (name.encode("ascii"), fields[:-1])


def _said(block: Block) -> Fields:
    text = block.text()
    match block.kind:
        case Kind.TEXT:
            return {"text": text, "logprobs": token_logprobs(block.logprobs)}
        case Kind.REASONING:
            return {"text": text}
        case Kind.REFUSAL:
            return {"refusal": text}
        case Kind.CALL:
            return {"name": block.name, "arguments": text}
