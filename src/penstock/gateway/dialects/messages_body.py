"""The body of Anthropic's `POST /v1/messages`, as its SDK's types say (anthropic 2.12)."""

from typing import Literal

import msgspec

from penstock.gateway.dialects.reading import NO_RAW


class Source(msgspec.Struct):
    """Where an image or a document is."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: "str | list[Block]" = ""


class Block(msgspec.Struct):
    """A content block of any type; which fields count depends on `type`."""

    type: str
    text: str = ""
    source: Source | str | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = NO_RAW
    tool_use_id: str = ""
    tool_name: str = ""
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str = ""
    title: str | None = None
    context: str | None = None


class Turn(msgspec.Struct):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool: the caller's own (`custom`), or one of Anthropic's by its dated type."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NO_RAW
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    """How tools are to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    """Whether the model is to think, and whether its thoughts are shown."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct):
    """The schema that the answer must follow."""

    type: Literal["json_schema"]
    schema: msgspec.Raw


class OutputConfig(msgspec.Struct):
    """Effort and format."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct):
    """Who asks, in the caller's own words."""

    user_id: str | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`: what makes up the prompt."""

    model: str
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesBody(CountBody, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    stream: bool | None = None


IGNORED = frozenset(
    {
        "betas",
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Fields that are about Anthropic's own service and mean nothing to an engine."""
