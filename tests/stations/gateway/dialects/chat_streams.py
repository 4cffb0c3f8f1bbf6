"""Chat answers as engines give them, whole and in chunks, and translations to feed them to."""

import json
from collections.abc import Sequence
from typing import Any

from penstock.gateway.dialects import DIALECTS, Translation

Json = dict[str, Any]

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"
DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def translation(path: str, body: Json) -> Translation:
    return DIALECTS[path](json.dumps(body).encode(), request_id="req7", now_s=lambda: 1_700_000_000)


def asked(path: str, **fields: Any) -> Translation:
    """A small valid request at a path."""
    if path == MESSAGES:
        least: Json = {"max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
    else:
        least = {"input": "hi"}
    return translation(path, {"model": "tiny", "stream": True, **least, **fields})


def chat_body(path: str, **fields: Any) -> Json:
    """The chat body that a small valid request becomes."""
    body: Json = json.loads(asked(path, **fields).chat_body)
    return body


def event(fields: Json) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(
    finish: str | None = None, *, index: int = 0, extra: Json | None = None, **delta: Any
) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish, **(extra or {})}
    return event(
        {"id": "c", "object": "chat.completion.chunk", "model": "tiny", "choices": [choice]}
    )


def usage(counts: Json | None = None) -> bytes:
    return event({"id": "c", "model": "tiny", "choices": [], "usage": counts or USAGE})


def call_piece(
    index: int | None,
    arguments: str | None = None,
    *,
    call: str | None = None,
    name: str | None = None,
) -> Json:
    """A piece of a tool call; `call` is its id."""
    function = {"name": name, "arguments": arguments}
    piece: Json = {"function": {key: value for key, value in function.items() if value is not None}}
    if index is not None:
        piece["index"] = index
    return {**piece, "id": call, "type": "function"} if call is not None else piece


def stream_of(*chunks: bytes, finish: str = "stop") -> list[bytes]:
    """A legal chat stream around some chunks."""
    return [chunk(role="assistant", content=""), *chunks, chunk(finish), usage(), DONE]


def told(by: Translation, events: Sequence[bytes]) -> bytes:
    """All that the client reads for a stream that ends by itself."""
    return b"".join([by.feed(one) for one in events]) + by.end()


def whole(
    message: Json, *, finish: str | None = "stop", counts: Json | None = None, **choice: Any
) -> bytes:
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}],
            "usage": counts or USAGE,
        }
    ).encode()


def read_events(stream: bytes) -> list[Json]:
    """The data events of a dialect's stream; each must be named by its type."""
    events = []
    for raw in stream.decode().split("\n\n"):
        if not raw or raw.startswith(":"):
            continue
        name, data = raw.split("\n")
        fields: Json = json.loads(data.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        events.append(fields)
    return events


def types(stream: bytes) -> list[str]:
    return [one["type"] for one in read_events(stream)]
