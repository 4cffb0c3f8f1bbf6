"""Other dialects than OpenAI's chat, as pure translations to chat and back.

`DIALECTS` has one by path. Errors that come before there is a translation (no key, a body that does
not fit) are put into the dialect of a path by `error_answer`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.gateway.dialects import messages, responses
from penstock.gateway.dialects.envelopes import (
    anthropic_error,
    anthropic_status,
    overloaded_status,
    renamed,
)
from penstock.gateway.dialects.messages import (
    COUNT_PATH,
    MESSAGES_PATH,
    CountTranslation,
    MessagesTranslation,
)
from penstock.gateway.dialects.responses import RESPONSES_PATH, ResponsesTranslation
from penstock.gateway.dialects.translation import Dialect, Translation

__all__ = ["DIALECTS", "Dialect", "Translation", "error_answer"]

DIALECTS: dict[str, Dialect] = {
    MESSAGES_PATH: MessagesTranslation,
    COUNT_PATH: CountTranslation,
    RESPONSES_PATH: ResponsesTranslation,
}

_NAMES = {
    MESSAGES_PATH: messages.NAMES,
    COUNT_PATH: messages.NAMES,
    RESPONSES_PATH: responses.NAMES,
}


def error_answer(
    path: str, status: int, *, envelope: Mapping[str, Any], request_id: str
) -> tuple[int, bytes]:
    """(status, body) of an error answer in the dialect of a path; elsewhere the OpenAI envelope.

    What is translated is checked as chat; its fields are told by the caller's names for them.
    """
    envelope = renamed(envelope, _NAMES.get(path, {}))
    if path.startswith(MESSAGES_PATH):
        status = overloaded_status(status, envelope)
        body = anthropic_error(status, envelope, request_id=request_id)
        return anthropic_status(status), body
    return status, msgspec.json.encode(envelope)
