"""Many orders at once, engines that misbehave and gateways that leave: the books still balance.

Whatever happens to an order, its place is given back, it has at most one receipt that bills
anything, that receipt holds, and the outbox keeps exactly the receipts that may earn.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST, toy_verify
from tests.stations.miner.world import (
    Answer,
    World,
    chat_body,
    chunk,
    header_of,
    playing,
    usage_chunk,
)

from penstock.kit.errors import WireError
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.spec.keys import Signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import Outcome, Receipt, check_receipt

ORDERS = 120
BEHAVIOURS = ("well", "slow", "refuses", "fails", "cuts", "errs", "hangs", "full", "mute")
MOODS = ("patient", "patient", "leaves", "cancels")
DONE = b"data: [DONE]\n\n"


async def misbehaving(request: Request) -> Response | Stream:
    """An engine that does what the last message tells it to."""
    asked = msgspec.json.decode(request.body)
    behaviour = asked["messages"][-1]["content"]
    match behaviour:
        case "refuses":
            return json_response(400, {"error": {"message": "no", "code": "no"}})
        case "fails":
            return json_response(500, {})
        case "full":
            return json_response(503, {})
        case _ if not asked.get("stream"):
            return await whole(behaviour)
        case _:
            return Stream(200, SSE_HEADERS, events(behaviour))


async def whole(behaviour: str) -> Response:
    if behaviour == "hangs":
        await asyncio.sleep(3600)
    if behaviour in {"cuts", "errs", "mute"}:
        return Response(200, b"", (("content-type", "application/json"),))
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 4, "completion_tokens": 2}
    return json_response(200, {"model": "m", "choices": [choice], "usage": usage})


async def events(behaviour: str) -> AsyncIterator[bytes]:
    for number in range(6):
        await asyncio.sleep(1 if behaviour == "slow" else 0.01)
        if behaviour == "mute":
            yield b": nothing to say\n\n"
            continue
        yield chunk(f"w{number} ")
        if behaviour == "hangs" and number == 2:
            await asyncio.sleep(3600)
        if behaviour == "cuts" and number == 3:
            return
        if behaviour == "errs" and number == 4:
            yield b'data: {"error": {"message": "broken"}}\n\n'
    if behaviour != "mute":
        yield chunk(finish="stop") + usage_chunk(4, 6) + DONE


@dataclass
class Storm:
    """One run: what was ordered, and what came back whole."""

    world: World
    rng: random.Random
    orders: dict[str, Order] = field(default_factory=dict)
    signed: dict[str, Signed] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    async def one(self) -> None:
        await asyncio.sleep(self.rng.random() * 120)
        stream = self.rng.random() < 0.7
        body = chat_body(self.rng.choice(BEHAVIOURS), stream=stream)
        order = self.world.order(body)
        signed = sign("order", order, GATEWAY)
        self.orders[order.order_id], self.signed[order.order_id] = order, signed
        match self.rng.choice(MOODS):
            case "patient":
                self.answers.append(await self.world.post(signed, body))
            case "cancels":
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(self.world.post(signed, body))
                    await asyncio.sleep(self.rng.random() * 3)
                    await self.world.cancel(signed)
                self.answers.append(task.result())
            case _:
                await self.leave(signed, body)

    async def leave(self, signed: Signed, body: bytes) -> None:
        """Go away at some moment, with or without having read something."""
        try:
            async with asyncio.timeout(self.rng.random() * 3):
                async with self.world.client.open_stream(
                    "POST",
                    "http://miner:9000/v1/chat/completions",
                    headers=(("x-penstock-order", header_of(signed)),),
                    body=body,
                    head_deadline_ms=60_000,
                ) as reply:
                    async for _ in reply.chunks(idle_deadline_ms=60_000):
                        pass
        except (TimeoutError, WireError):
            pass  # leaving is what this gateway does

    def kept(self) -> list[Receipt]:
        """All receipts of the outbox, each checked against its order."""
        receipts = []
        for line in self.world.store.load():
            fields = msgspec.json.decode(line)
            if "order" not in fields:
                continue
            order_id = fields["order"]["body"]["order_id"]
            receipts.append(self.checked(order_id, parse_signed(fields["receipt"])))
        return receipts

    def checked(self, order_id: str, receipt: Signed) -> Receipt:
        return check_receipt(
            receipt,
            self.orders[order_id],
            order_digest=signed_digest(self.signed[order_id]),
            verify=toy_verify,
        )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_storm_every_order_ends_once_and_every_receipt_holds(seed: int) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        storm = Storm(world, random.Random(seed))
        async with asyncio.TaskGroup() as group:
            for _ in range(ORDERS):
                group.create_task(storm.one())
        jobs = world.miner.parts.front.jobs
        await world.until(lambda: not len(jobs))
        (instance,) = world.miner.parts.fleet.instances.values()
        assert instance.running == 0
        assert instance.room == MANIFEST.limits.parallel_max
        kept = storm.kept()
        assert len({one.order_id for one in kept}) == len(kept)
        assert {one.outcome for one in kept} == {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
        seen = {answer.receipt.order_id: answer.receipt for answer in storm.answers}
        earning = {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
        by_id = {one.order_id: one for one in kept}
        for order_id, receipt in seen.items():
            assert (order_id in by_id) == (receipt.outcome in earning)
            assert by_id.get(order_id, receipt) == receipt
        assert {one.outcome for one in seen.values()} >= earning | {Outcome.MINER_FAILED}
        await world.until(lambda: len(world.miner.parts.outbox) == 0)
        claimed = [one["order"]["body"]["order_id"] for one in world.market.claims]
        assert sorted(claimed) == sorted(by_id)

    def prepare(world: World) -> None:
        world.scripted(misbehaving)

    playing(scenario, prepare=prepare)
