"""Many orders at once, engines that misbehave and gateways that leave: the books still balance.

Whatever happens to an order, its place is given back, it has at most one receipt that bills
anything, that receipt holds, and the outbox keeps exactly the receipts that may earn. Half of the
orders come signed, the other half under a session; those are sealed later, and some never.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST
from tests.stations.miner.answer import Answer
from tests.stations.miner.gate import Gate, Vouched, judged_claim
from tests.stations.miner.scripted_engine import chunk, usage_chunk
from tests.stations.miner.world import World, chat_body, header_of, playing

from penstock.kit.errors import WireError
from penstock.kit.spell import read_receipt
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.miner.store import Claim, read_line
from penstock.spec.keys import Signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import Outcome, Receipt, check_account
from penstock.spec.seals import SEAL_LEAVES_MAX

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
    gate: Gate
    rng: random.Random
    orders: dict[str, Order] = field(default_factory=dict)
    signed: dict[str, Signed] = field(default_factory=dict)
    answers: list[Answer | Vouched] = field(default_factory=list)
    vouched: dict[str, Order] = field(default_factory=dict)

    async def one(self) -> None:
        await asyncio.sleep(self.rng.random() * 120)
        stream = self.rng.random() < 0.7
        body = chat_body(self.rng.choice(BEHAVIOURS), stream=stream)
        order = self.world.order(body)
        signed = sign("order", order, GATEWAY)
        self.orders[order.order_id], self.signed[order.order_id] = order, signed
        if self.rng.random() < 0.5:
            self.vouched[order.order_id] = order
        match self.rng.choice(MOODS):
            case "patient":
                self.answers.append(await self.post(signed, body))
            case "cancels":
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(self.post(signed, body))
                    await asyncio.sleep(self.rng.random() * 3)
                    await self.world.cancel(signed)
                self.answers.append(task.result())
            case _:
                await self.leave(signed, body)

    async def post(self, signed: Signed, body: bytes) -> Answer | Vouched:
        order = self.vouched.get(signed.body["order_id"])
        if order is None:
            return await self.world.post(signed, body)
        return await self.gate.place(order, body, headers=self.gate.headers(order))

    async def seal(self, orders: list[Order]) -> None:
        """Seal these and have the seals of their receipts, of those that ended."""
        for start in range(0, len(orders), SEAL_LEAVES_MAX):
            batch = orders[start : start + SEAL_LEAVES_MAX]
            given = await self.gate.seal(batch, [one.order_id for one in batch])
            assert given["orders_known"] == len(batch)

    async def leave(self, signed: Signed, body: bytes) -> None:
        """Go away at some moment, with or without having read something."""
        order = self.vouched.get(signed.body["order_id"])
        headers: tuple[tuple[str, str], ...] = (("x-penstock-order", header_of(signed)),)
        if order is not None:
            headers = self.gate.headers(order)
        try:
            async with asyncio.timeout(self.rng.random() * 3):
                async with self.world.client.open_stream(
                    "POST",
                    "http://miner:9000/v1/chat/completions",
                    headers=headers,
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
            claim = read_line(line)
            if isinstance(claim, Claim):
                receipts.append(self.checked(claim.order_id, read_receipt(claim.receipt.body)))
        return receipts

    def checked(self, order_id: str, receipt: Receipt) -> Receipt:
        order_digest = signed_digest(self.signed[order_id])
        check_account(receipt, self.orders[order_id], order_digest=order_digest)
        return receipt


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_storm_every_order_ends_once_and_every_receipt_holds(seed: int) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        gate = Gate.of(world)
        await gate.open()
        storm = Storm(world, gate, random.Random(seed))
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
        vouched = list(storm.vouched.values())
        unsealed = {one.order_id for one in vouched[::5]}
        await storm.seal([one for one in vouched if one.order_id not in unsealed])
        await world.until(lambda: len(world.miner.parts.outbox) == len(unsealed & set(by_id)))
        claimed = [one["order"]["body"]["order_id"] for one in world.market.claims]
        assert sorted(claimed) == sorted(set(by_id) - unsealed)
        for claim in world.market.claims:
            judged_claim(claim)

    def prepare(world: World) -> None:
        world.scripted(misbehaving)

    playing(scenario, prepare=prepare)
