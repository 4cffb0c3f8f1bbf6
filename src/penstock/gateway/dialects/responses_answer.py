"""The Response object: everything that strict SDKs want to find in it."""

from collections.abc import Callable
from typing import Any

import msgspec

from penstock.gateway.dialects.blocks import Block, Kind, blocks_of
from penstock.gateway.dialects.chat_answer import (
    Counts,
    Ending,
    Logprobs,
    ending_of,
    read_answer,
)
from penstock.gateway.dialects.reading import is_given
from penstock.gateway.dialects.responses_body import Format, ResponsesBody, Tool, ToolChoice
from penstock.gateway.dialects.responses_request import function_tools

Fields = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

_encode = msgspec.json.Encoder().encode


class ResponseMaker:
    """Builds the Response of one request at every stage of its life."""

    __slots__ = ("_asked", "_echo", "_now_s", "request_id", "shows_summary")

    def __init__(self, asked: ResponsesBody, *, request_id: str, now_s: Callable[[], int]) -> None:
        self._asked = asked
        self._now_s = now_s
        self.request_id = request_id
        reasoning = asked.reasoning
        self.shows_summary = reasoning is not None and bool(
            reasoning.summary or reasoning.generate_summary
        )
        self._echo = _echo(asked, request_id=request_id, created_s=now_s())

    def whole(self, answer: bytes) -> bytes:
        """A Response from a whole chat answer. Raises AnswerUnreadable."""
        chat, choice = read_answer(answer)
        blocks = blocks_of(choice, self.request_id)
        return _encode(self.ended(blocks, ending_of(chat, choice), model=chat.model))

    def opened(self, model: str | None) -> Fields:
        """The Response before anything of it is known."""
        return self._response("in_progress", [], model=model)

    def ended(self, blocks: list[Block], ending: Ending, *, model: str | None) -> Fields:
        """The Response at its end: completed, or incomplete with the reason."""
        reason = _INCOMPLETE.get(ending.finish or "")
        last = len(blocks) - 1
        output = [
            self.item(block, status="incomplete" if reason and block.place == last else "completed")
            for block in blocks
        ]
        response = self._response("incomplete" if reason else "completed", output, model=model)
        response["completed_at"] = None if reason else self._now_s()
        response["incomplete_details"] = {"reason": reason} if reason else None
        response["usage"] = _usage(ending.counts)
        return response

    def failed(self, blocks: list[Block], message: str, *, model: str | None) -> Fields:
        """The Response of an answer that broke off."""
        output = [
            self.item(block, status="completed" if block.is_done else "incomplete")
            for block in blocks
            if block.is_begun
        ]
        response = self._response("failed", output, model=model)
        response["error"] = {"code": "server_error", "message": message}
        return response

    def item(self, block: Block, *, status: str) -> Fields:
        """A block as an output item; `in_progress` ones have no content yet."""
        is_open = status == "in_progress"
        item: Fields = {"id": self.item_id(block), "status": status}
        match block.kind:
            case Kind.CALL:
                arguments = "" if is_open else block.text()
                call = {"call_id": block.call_id, "name": block.name, "arguments": arguments}
                return {"type": "function_call", **item, **call}
            case Kind.REASONING:
                parts = [] if is_open else [self.part(block)]
                summary, content = (parts, []) if self.shows_summary else ([], parts)
                return {"type": "reasoning", **item, "summary": summary, "content": content}
            case Kind.TEXT | Kind.REFUSAL:
                parts = [] if is_open else [self.part(block)]
                return {"type": "message", **item, "role": "assistant", "content": parts}

    def part(self, block: Block, *, is_empty: bool = False) -> Fields:
        """The only content part of a block's item."""
        text = "" if is_empty else block.text()
        if block.kind is Kind.REFUSAL:
            return {"type": "refusal", "refusal": text}
        if block.kind is Kind.REASONING:
            return {
                "type": "summary_text" if self.shows_summary else "reasoning_text",
                "text": text,
            }
        logprobs = [] if is_empty else token_logprobs(block.logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def item_id(self, block: Block) -> str:
        """The item's id, unique in the answer."""
        prefix = {Kind.CALL: "fc", Kind.REASONING: "rs"}.get(block.kind, "msg")
        return f"{prefix}_{self.request_id}_{block.place}"

    def _response(self, status: str, output: list[Fields], *, model: str | None) -> Fields:
        response = {**self._echo, "status": status, "output": output}
        if model:
            response["model"] = model
        return response


def token_logprobs(logprobs: Logprobs) -> list[Fields]:
    """Chat's log probabilities with the fields that Responses demands."""
    return [
        {**_token(one), "top_logprobs": [_token(top) for top in _dicts(one.get("top_logprobs"))]}
        for one in logprobs
    ]


def _token(entry: Fields) -> Fields:
    text = entry.get("token")
    token = text if isinstance(text, str) else ""
    logprob = entry.get("logprob")
    raw = entry.get("bytes")
    return {
        "token": token,
        "logprob": logprob if isinstance(logprob, int | float) else 0,
        "bytes": raw if isinstance(raw, list) else list(token.encode()),
    }


def _dicts(value: object) -> list[Fields]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _echo(asked: ResponsesBody, *, request_id: str, created_s: int) -> Fields:
    """What a Response says of its request, and what does not change while it lasts."""
    reasoning = asked.reasoning
    parallel = asked.parallel_tool_calls
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created_s,
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": reasoning.summary if reasoning is not None else None,
        },
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1 if asked.temperature is None else asked.temperature,
        "text": _text(asked),
        "tool_choice": _tool_choice(asked.tool_choice),
        "tools": [_tool(tool) for tool in function_tools(asked)],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": 1 if asked.top_p is None else asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
    }


def _text(asked: ResponsesBody) -> Fields:
    config = asked.text
    text: Fields = {"format": _format(config.format if config is not None else None)}
    if config is not None and config.verbosity is not None:
        text["verbosity"] = config.verbosity
    return text


def _format(form: Format | None) -> Fields:
    if form is None or form.type != "json_schema":
        return {"type": "text" if form is None else form.type}
    return {
        "type": form.type,
        "name": form.name,
        "schema": form.schema,
        "strict": form.strict,
        "description": form.description,
    }


def _tool(tool: Tool) -> Fields:
    return {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters if is_given(tool.parameters) else None,
        "strict": tool.strict,
    }


def _tool_choice(choice: str | ToolChoice | None) -> str | Fields:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    if choice.type == "allowed_tools":
        tools = [{"type": tool.type, "name": tool.name} for tool in choice.tools or []]
        return {"type": choice.type, "mode": choice.mode, "tools": tools}
    return {"type": choice.type, "name": choice.name}


def _usage(counts: Counts) -> Fields:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.completion,
    }
