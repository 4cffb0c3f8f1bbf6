"""Error answers in the shape every OpenAI client understands.

`{"error": {"message", "type", "param", "code", "request_id"}}`: `code` is ours and stable, `type`
follows from the status, `message` tells a person what happened, why, and what to do next.
"""

from penstock.kit.wire.http import Headers, Response, json_response

_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """Raise it anywhere in a handler to answer with `response` instead."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"answered {response.status}")
        self.response = response


def problem_type(status: int) -> str:
    """OpenAI's error `type` for a status."""
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")


def problem(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    request_id: str | None = None,
    headers: Headers = (),
) -> Response:
    """An error answer; `headers` are added to it (for example `retry-after`)."""
    error = {
        "message": message,
        "type": problem_type(status),
        "param": param,
        "code": code,
        "request_id": request_id,
    }
    return json_response(status, {"error": error}, headers=headers)
