"""Request and answer bodies of the OpenAI form: what the client puts in and reads out."""

from collections.abc import Sequence
from typing import Any

from penstock.client.answers import decode
from penstock.client.errors import ApiError, BadAnswer

TOLD_CHARS_MAX = 200

Messages = str | Sequence[dict[str, Any]]


def chat_messages(messages: Messages) -> list[dict[str, Any]]:
    """A text alone is one message by the user."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return list(messages)


def piece(event: Any) -> str:
    """The text of a chat answer or of one event of it; "" where there is none."""
    choices = event.get("choices") if isinstance(event, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    said = first.get("delta") or first.get("message")
    content = said.get("content") if isinstance(said, dict) else None
    return content if isinstance(content, str) else ""


def api_error(status: int, body: Any) -> ApiError:
    """What an error envelope says."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ApiError(status, "", str(body)[:TOLD_CHARS_MAX])
    return ApiError(status, str(error.get("code", "")), str(error.get("message", body)))


def refusal(status: int, data: bytes) -> ApiError:
    """What an error status says; a proxy's page is no JSON, and the status still counts."""
    try:
        return api_error(status, decode(data))
    except BadAnswer:
        return ApiError(status, "", data[:TOLD_CHARS_MAX].decode(errors="replace"))
