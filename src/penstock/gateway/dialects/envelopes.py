"""Errors in each dialect. The gateway and the miners speak OpenAI's envelope among themselves."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

OVERLOADED_STATUS = 529
"""What Anthropic's clients know as overload; everybody else's is 503."""

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BY_TYPE = {
    "insufficient_quota": "billing_error",
    "server_error": "api_error",
    **{name: name for name in _BY_STATUS.values()},
}
_BY_CODE = {"no_capacity": "overloaded_error"}

_HEAD = re.compile(r"\w+")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the OpenAI envelope tells it, whatever of it was there."""

    message: str
    type: str
    code: str | None
    param: str | None
    request_id: str | None


def problem_of(envelope: Mapping[str, Any]) -> Problem:
    """The problem in an envelope; a miner's may be of any shape."""
    error = envelope.get("error")
    if not isinstance(error, Mapping):
        error = {"message": error} if error is not None else envelope
    return Problem(
        message=_text(error.get("message")) or "The request failed and the miner did not say why.",
        type=_text(error.get("type")) or "server_error",
        code=_text(error.get("code")),
        param=_text(error.get("param")),
        request_id=_text(error.get("request_id")),
    )


def renamed(envelope: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """The envelope with its field called as the caller called it: `names` by chat's names.

    Only the field that the error is about is renamed, and in its message only where that stands as
    a name: behind `$.`, at the very start, or with an underscore in it.
    """
    error = envelope.get("error")
    param = error.get("param") if isinstance(error, Mapping) else None
    head = _HEAD.match(param) if isinstance(param, str) else None
    if head is None or not isinstance(error, Mapping) or head[0] not in names:
        return envelope
    name = names[head[0]]
    shown = {**error, "param": name + str(param)[head.end() :]}
    if isinstance(error.get("message"), str):
        place = r"\b" if "_" in head[0] else r"(?:\A|(?<=\$\.))"
        shown["message"] = re.sub(rf"{place}{head[0]}\b", name, error["message"])
    return {**envelope, "error": shown}


def anthropic_type(problem: Problem, status: int | None = None) -> str:
    """Anthropic's error type: by the status, or in mid-stream by what the problem says."""
    if status is not None:
        return _BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return _BY_CODE.get(problem.code or "") or _BY_TYPE.get(problem.type, "api_error")


def anthropic_envelope(
    envelope: Mapping[str, Any], *, status: int | None, request_id: str
) -> dict[str, Any]:
    """`{"type": "error", "error": {...}, "request_id"}`. Our own code and field stay in it."""
    problem = problem_of(envelope)
    error: dict[str, Any] = {"type": anthropic_type(problem, status), "message": problem.message}
    if problem.code is not None:
        error["code"] = problem.code
    if problem.param is not None:
        error["param"] = problem.param
    return {"type": "error", "error": error, "request_id": problem.request_id or request_id}


def anthropic_error(status: int, envelope: Mapping[str, Any], *, request_id: str) -> bytes:
    """The body of an error answer in Anthropic's dialect."""
    return _encode(anthropic_envelope(envelope, status=status, request_id=request_id))


def anthropic_status(status: int) -> int:
    """The status that goes with it."""
    return OVERLOADED_STATUS if status == 503 else status


def overloaded_status(status: int, envelope: Mapping[str, Any]) -> int:
    """Want of room is 429 elsewhere; Anthropic's clients know it as overload, whatever its status."""
    return 503 if status == 429 and problem_of(envelope).code == "no_capacity" else status


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else None
