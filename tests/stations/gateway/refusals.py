"""Requests that are served, and how a refusal looks in each dialect."""

import json
from typing import Any

from tests.stations.gateway.real_world import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Heard,
    RealWorld,
)
from tests.stations.gateway.world import ALIAS

PATHS = (CHAT, MESSAGES, RESPONSES)
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
}


def good(path: str) -> dict[str, Any]:
    """A request that is served."""
    said: Any = [{"role": "user", "content": "What does water do?"}]
    if path == RESPONSES:
        return {"model": ALIAS, "input": said, "max_output_tokens": 16}
    return {"model": ALIAS, "messages": said, "max_tokens": 16}


def spelled(path: str, **fields: Any) -> bytes:
    return json.dumps({**good(path), **fields}).encode()


def check_refusal(heard: Heard, path: str, *, statuses: tuple[int, ...] = (400,)) -> None:
    """An error, complete, in the envelope of the path's dialect."""
    assert heard.status in statuses, (heard.status, heard.body[:300])
    assert heard.headers["content-type"] == "application/json"
    request_id = heard.headers["x-request-id"]
    error, whole = heard.error, json.loads(heard.body)
    assert len(error["message"]) > 10
    if path == MESSAGES:
        assert whole["type"] == "error"
        assert whole["request_id"] == request_id == heard.headers["request-id"]
        assert error["type"] == ANTHROPIC_TYPES.get(heard.status, "invalid_request_error")
    else:
        assert set(error) >= {"message", "type", "param", "code", "request_id"}
        assert error["request_id"] == request_id
        assert error["code"]


async def still_serves(world: RealWorld) -> None:
    """After all that: every dialect is answered."""
    for path in PATHS:
        heard = await world.post(path, spelled(path))
        assert heard.status == 200, heard.body
