"""What the tests of files and batches say to a gateway, as OpenAI's clients say it."""

import asyncio
import json
from typing import Any

from tests.makers import ToyKey
from tests.stations.gateway.world import CHAT, SECRET, URL, World, bearer, chat, play

from penstock.gateway.batches import OPEN
from penstock.gateway.config import BatchBounds, StoreBounds
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.kit.wire.client import Reply

FILES = "/v1/files"
BATCHES = "/v1/batches"
OTHER_SECRET = "sk-penstock-bob"
DAY_S = 86_400


def play_shop(scenario: Any, **fields: Any) -> None:
    """Run a scenario on a gateway that keeps files."""
    bounds = fields.pop("batch_bounds", BatchBounds(settle_ms=100, scan_ms=500, beat_ms=500))
    play(scenario, keeps_files=True, has_sessions=True, batch_bounds=bounds, **fields)


def small_store(**changes: int) -> StoreBounds:
    usual = {"file_bytes_max": 4_000, "account_bytes_max": 6_000, "account_files_max": 4}
    return StoreBounds(**{**usual, **changes})


def form(data: bytes, filename: str = "in.jsonl", **fields: str) -> bytes:
    parts = [text_part(name, value) for name, value in ({"purpose": "batch"} | fields).items()]
    return form_of([*parts, file_part("file", filename, data, content_type="a/b")]).body()


async def upload(
    world: World, data: bytes, *, filename: str = "in.jsonl", secret: str = SECRET, **fields: str
) -> Reply:
    return await send(world, form(data, filename, **fields), secret=secret)


async def send(world: World, body: bytes, *, secret: str = SECRET) -> Reply:
    headers = (*bearer(secret), ("content-type", "multipart/form-data; boundary=x"))
    return await world.client.call(
        "POST", URL + FILES, headers=headers, body=body, deadline_ms=60_000
    )


async def delete(world: World, path: str, *, secret: str = SECRET) -> Reply:
    return await world.client.call("DELETE", URL + path, headers=bearer(secret), deadline_ms=60_000)


def seen(reply: Reply) -> Any:
    """The JSON of a good answer."""
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def asked(number: int, **changes: Any) -> dict[str, Any]:
    """One line of a batch; `body` fields by their own names."""
    line = {"custom_id": f"ask-{number}", "method": "POST", "url": CHAT}
    fields = {name: changes.pop(name) for name in list(changes) if name in line}
    return {**line, **fields, "body": chat(**changes)}


def jsonl(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def make(world: World, data: bytes, *, secret: str = SECRET, **fields: Any) -> dict[str, Any]:
    """A batch of these lines."""
    card = seen(await upload(world, data, secret=secret))
    body = {"input_file_id": card["id"], "endpoint": CHAT, "completion_window": "24h", **fields}
    batch: dict[str, Any] = seen(await world.post(body, BATCHES, secret=secret))
    return batch


async def look(world: World, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = seen(await world.get(f"{BATCHES}/{batch_id}"))
    return batch


async def until_ended(world: World, batch_id: str) -> dict[str, Any]:
    while (batch := await look(world, batch_id))["status"] in OPEN:
        await asyncio.sleep(1)
    return batch


async def results(world: World, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of an output or error file by their custom_id."""
    if file_id is None:
        return {}
    content = await world.get(f"{FILES}/{file_id}/content")
    assert content.status == 200
    lines = [json.loads(line) for line in content.body.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines), "each line has one result"
    return found


def served_ids(world: World) -> list[str]:
    """What miners were asked, by the words of the question."""
    served = [one for miner in world.miners.values() for one in miner.served]
    return [json.loads(one.body)["messages"][0]["content"] for one in served]


def question(number: int) -> dict[str, Any]:
    """A line that says which one it is."""
    return asked(number, messages=[{"role": "user", "content": f"Question {number}"}])


__all__ = ["ToyKey"]
