"""Anthropic's request as chat's: `POST /v1/messages` and its `count_tokens`."""

from typing import Any

import msgspec

from penstock.gateway.dialects.chat_request import Fields, assembled, function_tool, named_choice
from penstock.gateway.dialects.messages_body import (
    IGNORED,
    CountBody,
    MessagesBody,
    Thinking,
    Tool,
    ToolChoice,
)
from penstock.gateway.dialects.messages_turns import conversation_of
from penstock.gateway.dialects.reading import checked_tokens, is_given, raw_object, read_body
from penstock.gateway.errors import BadRequest

SERVER_TOOLS = (
    "advisor_",
    "code_execution_",
    "mcp_toolset",
    "tool_search_tool_",
    "web_fetch_",
    "web_search_",
)
"""How the types of tools begin that Anthropic runs itself. Models here are not told of them."""

EFFORTS_BY_BUDGET = ((4096, "low"), (16384, "medium"))
"""Below so many tokens of thinking, this effort; above, high. Engines know efforts, not budgets."""

_HIGH = "high"

_messages = msgspec.json.Decoder(MessagesBody)
_count = msgspec.json.Decoder(CountBody)
_encode = msgspec.json.Encoder().encode


def read_messages(body: bytes) -> tuple[MessagesBody, bytes]:
    """(what was asked, the chat body). Raises BadJson and BadRequest."""
    asked, raw = read_body(_messages, body)
    fields = _prompt_fields(asked)
    fields |= {
        "max_tokens": checked_tokens(asked.max_tokens, "max_tokens"),
        "stop": asked.stop_sequences or None,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "user": asked.metadata.user_id if asked.metadata is not None else None,
        "reasoning_effort": _effort(asked),
        "response_format": _response_format(asked),
    }
    choice = asked.tool_choice
    if choice is not None and choice.disable_parallel_tool_use and "tools" in fields:
        fields["parallel_tool_calls"] = False
    known = IGNORED.union(MessagesBody.__struct_fields__)
    extras = {name: value for name, value in raw.items() if name not in known}
    template = _template(asked.thinking)
    return asked, assembled(fields, extras, template=template, stream=bool(asked.stream))


def read_count(body: bytes) -> bytes:
    """The tokenization request (vLLM's form) for a prompt. Raises BadJson and BadRequest."""
    asked, _ = read_body(_count, body)
    fields = _prompt_fields(asked)
    fields.pop("tool_choice", None)
    fields.setdefault("add_generation_prompt", True)
    template = _template(asked.thinking)
    return _encode({**fields, **({"chat_template_kwargs": template} if template else {})})


def _prompt_fields(asked: CountBody) -> Fields:
    conversation = conversation_of(asked)
    fields: Fields = {"model": asked.model}
    if conversation.ends_with_words():
        # The caller has begun the answer: the model goes on where it ends.
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    fields["messages"] = conversation.messages()
    tools = _tools(asked.tools or [])
    choice = _choice(asked.tool_choice, tools)
    if tools:
        fields["tools"] = tools
        if choice is not None:
            fields["tool_choice"] = choice
    return fields


def _tools(tools: list[Tool]) -> list[Fields]:
    functions = []
    for place, tool in enumerate(tools):
        param = f"tools[{place}]"
        if (tool.type or "").startswith(SERVER_TOOLS):
            continue
        if not is_given(tool.input_schema):
            raise BadRequest(
                reason=f"{param} ({tool.type or tool.name!r}) has no input_schema. Tools whose schema "
                "only Anthropic's models know cannot be used here: send it as a custom tool with an "
                "input_schema.",
                param=f"{param}.input_schema",
            )
        if not tool.name:
            raise BadRequest(reason=f"{param}.name is missing or empty.", param=f"{param}.name")
        schema = raw_object(tool.input_schema, f"{param}.input_schema")
        functions.append(
            function_tool(
                tool.name, description=tool.description, parameters=schema, strict=tool.strict
            )
        )
    return functions


def _choice(choice: ToolChoice | None, tools: list[Fields]) -> str | Fields | None:
    if choice is None:
        return None
    match choice.type:
        case "auto" | "none":
            return choice.type
        case "any":
            if not tools:
                reason = "tool_choice is 'any' and there is no tool that can be used here."
                raise BadRequest(reason=reason, param="tool_choice")
            return "required"
        case "tool":
            if not any(tool["function"]["name"] == choice.name for tool in tools):
                reason = f"tool_choice names {choice.name[:80]!r}, and no tool here is called so."
                raise BadRequest(reason=reason, param="tool_choice.name")
            return named_choice(choice.name)


def _template(thinking: Thinking | None) -> dict[str, Any]:
    """What chat templates are told; adaptive thinking is what models do by themselves."""
    if thinking is None or thinking.type not in {"enabled", "disabled"}:
        return {}
    return {"enable_thinking": thinking.type == "enabled"}


def _effort(asked: MessagesBody) -> str | None:
    config = asked.output_config
    if config is not None and config.effort is not None:
        # Engines know three steps.
        return config.effort if config.effort in {"low", "medium"} else _HIGH
    thinking = asked.thinking
    if thinking is None or thinking.type != "enabled":
        return None
    budget = thinking.budget_tokens
    if budget is None:
        return None
    if budget < 1:
        param = "thinking.budget_tokens"
        raise BadRequest(reason=f"{param} must be at least 1.", param=param)
    return next((name for below, name in EFFORTS_BY_BUDGET if budget < below), _HIGH)


def _response_format(asked: MessagesBody) -> Fields | None:
    config = asked.output_config
    if config is None or config.format is None:
        return None
    schema = raw_object(config.format.schema, "output_config.format.schema")
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}
