"""The chat request that a translated one becomes: its parts, and how it is put together."""

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.gateway.dialects.reading import is_given
from penstock.gateway.errors import BadRequest

Fields = dict[str, Any]

FRAMING = frozenset(
    {
        "audio",
        "best_of",
        "function_call",
        "functions",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "stream_options",
    }
)
"""Chat fields that a foreign body cannot set: they would change how the answer is framed or billed."""

_encode = msgspec.json.Encoder().encode
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def text_part(text: str) -> Fields:
    """A content part of plain text."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> Fields:
    """A content part that is an image; `url` may be a data URL."""
    image = {"url": url} if detail is None else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def file_part(filename: str, file_data: str) -> Fields:
    """A content part that is a file, as a data URL. Engines that take none say so themselves."""
    return {"type": "file", "file": {"filename": filename, "file_data": file_data}}


def function_tool(
    name: str, *, description: str | None, parameters: msgspec.Raw, strict: bool | None
) -> Fields:
    """A tool in chat's form."""
    function: Fields = {"name": name}
    if description is not None:
        function["description"] = description
    if is_given(parameters):
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def named_choice(name: str) -> Fields:
    """A tool choice that forces one function."""
    return {"type": "function", "function": {"name": name}}


def assembled(
    fields: Mapping[str, Any],
    extras: Mapping[str, msgspec.Raw],
    *,
    template: Mapping[str, Any],
    stream: bool,
) -> bytes:
    """The chat body: `fields` without what is None, then the client's own `extras` as they came.

    `template` becomes `chat_template_kwargs`; what the client says there wins. A stream always asks
    for its usage, because every dialect tells it. Raises BadRequest.
    """
    body = {name: value for name, value in fields.items() if value is not None}
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    for name, raw in extras.items():
        if name not in FRAMING:
            body.setdefault(name, raw)
    if template:
        body["chat_template_kwargs"] = {**template, **_template(extras)}
    return _encode(body)


def _template(extras: Mapping[str, msgspec.Raw]) -> Mapping[str, msgspec.Raw]:
    raw = extras.get("chat_template_kwargs")
    if raw is None or not is_given(raw):
        return {}
    try:
        return _raw_fields.decode(raw)
    except msgspec.ValidationError as error:
        name = "chat_template_kwargs"
        raise BadRequest(reason=f"{name} must be an object.", param=name) from error
