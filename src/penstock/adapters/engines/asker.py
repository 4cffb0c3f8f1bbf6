"""Questions to one server about one model, and what is read of its answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.engine import Capability
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import JSON_HEADERS, Headers

CALL_DEADLINE_MS = 180_000
Checks = dict[Capability, Callable[[], Awaitable[bool]]]


@dataclass(slots=True)
class Asker:
    """Methods raise kit's WireError when the server is gone. `headers` go with every question."""

    client: HttpClient
    address: str
    model: str
    headers: Headers = ()
    last_error: str = ""

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        return await self.send(
            path, msgspec.json.encode({"model": self.model, **body}), headers=JSON_HEADERS
        )

    async def send(self, path: str, body: bytes, *, headers: Headers) -> Reply:
        reply = await self.client.call(
            "POST",
            self.address + path,
            headers=(*headers, *self.headers),
            body=body,
            deadline_ms=CALL_DEADLINE_MS,
        )
        if reply.status != 200:
            self.last_error = f"{path} answered {reply.status}: {reply.body[:300]!r}"
        return reply


async def seen_by(checks: Checks) -> set[Capability]:
    """The capabilities whose check succeeds, asked one after the other."""
    return {capability for capability, check in checks.items() if await check()}


def chat_body(question: str, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def decoded(reply: Reply) -> object:
    return parsed(reply.body) if reply.status == 200 else None


def parsed(text: bytes | str) -> object:
    """JSON, or None for what is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def dig(value: object, *path: str | int) -> object:
    """The value at a path of keys and indexes, or None where the path ends early."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value
