"""A Responses request as chat's. Nothing is stored, so whatever needs a store is refused."""

from typing import Any

import msgspec

from penstock.gateway.dialects.chat_request import Fields, assembled, function_tool, named_choice
from penstock.gateway.dialects.reading import checked_tokens, is_given, raw_object, read_body
from penstock.gateway.dialects.responses_body import (
    IGNORED,
    Format,
    NamedTool,
    ResponsesBody,
    Tool,
    ToolChoice,
)
from penstock.gateway.dialects.responses_input import conversation_of
from penstock.gateway.errors import BadRequest

LOGPROBS = "message.output_text.logprobs"
"""What `include` says when log probabilities are wanted."""

CHOICES = frozenset({"auto", "none", "required"})

_responses = msgspec.json.Decoder(ResponsesBody)


def read_responses(body: bytes) -> tuple[ResponsesBody, bytes]:
    """(what was asked, the chat body). Raises BadJson and BadRequest."""
    asked, raw = read_body(_responses, body)
    _check_stateless(asked)
    tools = function_tools(asked)
    choice = _choice(asked.tool_choice, tools)
    logprobs = asks_logprobs(asked)
    effort = asked.reasoning.effort if asked.reasoning is not None else None
    limit = asked.max_output_tokens
    fields: Fields = {
        "model": asked.model,
        "messages": conversation_of(asked).messages(),
        "max_tokens": None if limit is None else checked_tokens(limit, "max_output_tokens"),
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "logprobs": True if logprobs else None,
        "top_logprobs": (asked.top_logprobs or 0) if logprobs else None,
        "reasoning_effort": effort,
        "verbosity": asked.text.verbosity if asked.text is not None else None,
        "response_format": _response_format(asked.text.format if asked.text is not None else None),
        "user": asked.user,
        "safety_identifier": asked.safety_identifier,
        "prompt_cache_key": asked.prompt_cache_key,
    }
    allowed = _allowed(asked.tool_choice, tools)
    if allowed:
        fields |= {
            "tools": [_chat_tool(tool) for tool in allowed],
            "tool_choice": choice,
            "parallel_tool_calls": asked.parallel_tool_calls,
        }
    known = IGNORED.union(ResponsesBody.__struct_fields__)
    extras = {name: value for name, value in raw.items() if name not in known}
    template: dict[str, Any] = {"enable_thinking": False} if effort == "none" else {}
    return asked, assembled(fields, extras, template=template, stream=bool(asked.stream))


def function_tools(asked: ResponsesBody) -> list[Tool]:
    """The caller's functions. Tools of other types are ones that OpenAI runs, or that its clients
    offer to its models: they are left out. Raises BadRequest.
    """
    functions = []
    for place, tool in enumerate(asked.tools or []):
        if tool.type != "function":
            continue
        if not tool.name:
            param = f"tools[{place}].name"
            raise BadRequest(reason=f"{param} is missing or empty.", param=param)
        if is_given(tool.parameters):
            raw_object(tool.parameters, f"tools[{place}].parameters")
        functions.append(tool)
    return functions


def asks_logprobs(asked: ResponsesBody) -> bool:
    """Does the caller want log probabilities?"""
    return bool(asked.top_logprobs) or LOGPROBS in (asked.include or ())


def _check_stateless(asked: ResponsesBody) -> None:
    stateful = (
        ("previous_response_id", bool(asked.previous_response_id), "Send the whole input again."),
        ("conversation", is_given(asked.conversation), "Send the whole input again."),
        ("prompt", is_given(asked.prompt), "Send the text of the prompt as instructions."),
        ("background", bool(asked.background), "Ask for a stream, or wait for the answer."),
    )
    for name, is_asked, remedy in stateful:
        if is_asked:
            reason = f"{name} needs stored responses, and nothing is stored here. {remedy}"
            raise BadRequest(reason=reason, param=name)
    if asked.top_logprobs is not None and not 0 <= asked.top_logprobs <= 20:
        raise BadRequest(reason="top_logprobs must be from 0 to 20.", param="top_logprobs")


def _choice(choice: str | ToolChoice | None, tools: list[Tool]) -> str | Fields | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in CHOICES:
            reason = "tool_choice must be auto, none, required, or name a function."
            raise BadRequest(reason=reason, param="tool_choice")
        if choice == "required" and not tools:
            raise _unusable("required, and there is no function among the tools")
        return choice
    if choice.type == "allowed_tools":
        if choice.mode not in {"auto", "required"}:
            reason = "tool_choice.mode must be auto or required."
            raise BadRequest(reason=reason, param="tool_choice.mode")
        if choice.mode == "required" and not _allowed(choice, tools):
            raise _unusable("required, and none of the allowed tools is a function of yours")
        return choice.mode
    if choice.type != "function":
        raise _unusable(f"of type {choice.type[:80]!r}, which is no function")
    if not _named([NamedTool("function", choice.name)], tools):
        raise _unusable(f"{(choice.name or '')[:80]!r}, which is no function among the tools")
    return named_choice(choice.name or "")


def _allowed(choice: str | ToolChoice | None, tools: list[Tool]) -> list[Tool]:
    """The tools that the model is told of: engines know no list of allowed ones."""
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools":
        return _named(choice.tools or [], tools)
    return tools


def _named(names: list[NamedTool], tools: list[Tool]) -> list[Tool]:
    wanted = {one.name for one in names if one.type == "function"}
    return [tool for tool in tools if tool.name in wanted]


def _unusable(what: str) -> BadRequest:
    reason = f"tool_choice is {what}. Only functions can be used here."
    return BadRequest(reason=reason, param="tool_choice")


def _chat_tool(tool: Tool) -> Fields:
    return function_tool(
        tool.name or "",
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )


def _response_format(form: Format | None) -> Fields | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.type != "json_schema":
        param = "text.format.type"
        reason = f"{param} must be text, json_object or json_schema."
        raise BadRequest(reason=reason, param=param)
    if not form.name:
        param = "text.format.name"
        raise BadRequest(reason=f"{param} is missing or empty.", param=param)
    named: Fields = {"name": form.name, "schema": raw_object(form.schema, "text.format.schema")}
    if form.description is not None:
        named["description"] = form.description
    if form.strict is not None:
        named["strict"] = form.strict
    return {"type": "json_schema", "json_schema": named}
