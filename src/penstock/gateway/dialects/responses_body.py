"""The body of OpenAI's `POST /v1/responses`, as its SDK's types say (openai 3.54)."""

import msgspec

from penstock.gateway.dialects.reading import NO_RAW


class Part(msgspec.Struct):
    """A content part of any type; which fields count depends on `type`."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: msgspec.Raw = NO_RAW


class Item(msgspec.Struct):
    """An input item of any type; a message may leave its type out."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    id: str | None = None


class Tool(msgspec.Struct):
    """A tool; only functions are known here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = NO_RAW
    strict: bool | None = None


class NamedTool(msgspec.Struct):
    """A tool that a choice speaks of."""

    type: str
    name: str | None = None


class ToolChoice(msgspec.Struct):
    """A choice that forces one tool, or allows some."""

    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[NamedTool] | None = None


class Format(msgspec.Struct):
    """How the text must look."""

    type: str
    name: str | None = None
    schema: msgspec.Raw = NO_RAW
    strict: bool | None = None
    description: str | None = None


class TextConfig(msgspec.Struct):
    """Format and length of the text."""

    format: Format | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    """How much the model thinks, and whether a summary is shown."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesBody(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`."""

    model: str
    input: str | list[Item] | None = None
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: msgspec.Raw = NO_RAW
    prompt: msgspec.Raw = NO_RAW


IGNORED = frozenset(
    {
        "access_programs",
        "background_options",
        "client_metadata",
        "context_management",
        "image",
        "moderation",
        "prompt_cache_options",
        "prompt_cache_retention",
        "service_tier",
        "truncation",
    }
)
"""Fields that are about OpenAI's own service and mean nothing to an engine."""
