"""Callers that leave or stop reading: the engine is freed, and what was proven is billed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from tests.makers import GATEWAY, ToyKey
from tests.stations.miner.answer import Answer
from tests.stations.miner.scripted_engine import chunk, streaming
from tests.stations.miner.test_front import units, with_engine
from tests.stations.miner.world import World, chat_body, header_of, playing

from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.miner.jobs import Job
from penstock.spec.keys import Signed, parse_signed, sign
from penstock.spec.receipts import Outcome
from penstock.spec.units import NO_UNITS

DONE = b"data: [DONE]\n\n"


def signed_order(job: Job) -> Signed:
    """The order of a job, as its gateway signed it."""
    return parse_signed(msgspec.json.decode(job.admitted.statement.spelled()))


async def opened(world: World, stack: AsyncExitStack, body: bytes) -> tuple[Any, Any]:
    """Open a stream, and read until the first chunk."""
    signed = sign("order", world.order(body), GATEWAY)
    reply = await stack.enter_async_context(
        world.client.open_stream(
            "POST",
            "http://miner:9000/v1/chat/completions",
            headers=(("x-penstock-order", header_of(signed)),),
            body=body,
            head_deadline_ms=10_000,
        )
    )
    return signed, reply


def test_a_cancel_frees_the_engine_at_once_and_bills_the_proven_prefix() -> None:
    gone = asyncio.Event()

    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: len(world.miner.parts.front.jobs))
            await asyncio.sleep(1)
            (job,) = world.miner.parts.front.jobs._jobs.values()
            reply = await world.cancel(signed_order(job))
            assert reply.status == 200
            await world.until(gone.is_set, within_ms=100)
            answer = await task
        assert "[DONE]" not in answer.data
        receipt = answer.receipt
        assert receipt.outcome is Outcome.CLIENT_CANCELLED
        assert receipt.units == units(5, 2, cached=2), "the prompt is known from the timings"
        judged = answer.judged(Outcome.CLIENT_CANCELLED, charge_nano=receipt.charge_nano)
        assert judged.earned_nano == receipt.charge_nano > 0
        assert world.kept == [answer.order.body["order_id"]]
        instance = next(iter(world.miner.parts.fleet.instances.values()))
        assert instance.running == 0

    timings = {"prompt_n": 3, "cache_n": 2, "predicted_n": 2}
    parts = (chunk("a"), chunk("b", timings=timings))

    playing(scenario, prepare=with_engine(streaming(*parts, hold=asyncio.Event(), gone=gone)))


def test_a_cancel_of_a_whole_answer_bills_nothing() -> None:
    async def handler(_request: Request) -> Response:
        await asyncio.sleep(3600)
        return Response(200)

    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body()))
            await world.until(lambda: len(world.miner.parts.front.jobs))
            (job,) = world.miner.parts.front.jobs._jobs.values()
            await world.cancel(signed_order(job))
            answer = await task
        assert (answer.status, answer.error) == (499, "client_cancelled")
        assert answer.receipt.outcome is Outcome.CLIENT_CANCELLED
        assert answer.receipt.units == NO_UNITS

    playing(scenario, prepare=with_engine(handler))


def test_a_cancel_needs_the_very_order_as_proof() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.call(chat_body(stream=True)))
            await world.until(lambda: len(world.miner.parts.front.jobs))
            (job,) = world.miner.parts.front.jobs._jobs.values()
            order = job.admitted.order
            other = sign("order", world.order(chat_body(), order_id=order.order_id), GATEWAY)
            assert (await world.cancel(other)).status == 404
            forged = sign("order", order, ToyKey("thief"))
            assert (await world.cancel(forged)).status == 403
            unknown = sign("order", world.order(chat_body()), GATEWAY)
            assert (await world.cancel(unknown)).status == 404
            assert len(world.miner.parts.front.jobs) == 1
            await world.cancel(signed_order(job))
            await task

    playing(scenario, prepare=with_engine(streaming(chunk("a"), hold=asyncio.Event())))


def test_a_broken_connection_aborts_the_engine_and_keeps_the_receipt_to_claim() -> None:
    gone = asyncio.Event()

    async def scenario(world: World) -> None:
        await world.ready()
        async with AsyncExitStack() as stack:
            signed, reply = await opened(world, stack, chat_body(stream=True))
            chunks = reply.chunks(idle_deadline_ms=10_000)
            assert b"content" in await anext(chunks)
        await world.until(gone.is_set, within_ms=100)
        await world.until(lambda: world.kept, within_ms=100)
        line = msgspec.json.decode(world.store.load()[0])
        assert line["order"]["body"]["order_id"] == signed.body["order_id"]
        assert line["receipt"]["body"]["outcome"] == "client_cancelled"
        assert line["receipt"]["body"]["units"]["completion"] == 1
        await world.until(lambda: world.market.claims)
        assert len(world.miner.parts.front.jobs) == 0

    playing(scenario, prepare=with_engine(streaming(chunk("a"), hold=asyncio.Event(), gone=gone)))


def test_a_connection_that_breaks_before_the_first_byte_is_a_cancel_too() -> None:
    async def handler(_request: Request) -> Response:
        await asyncio.sleep(3600)
        return Response(200)

    async def scenario(world: World) -> None:
        await world.ready()
        for stream in (False, True):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(world.call(chat_body(stream=stream)))
                await world.until(lambda: len(world.miner.parts.front.jobs))
                task.cancel()
            await world.until(lambda: not len(world.miner.parts.front.jobs), within_ms=100)
        assert len(world.kept) == 2

    playing(scenario, prepare=with_engine(handler))


def test_a_slow_reader_slows_the_engine_instead_of_filling_the_memory() -> None:
    sent: list[int] = []
    total = 400
    text = "x" * 10_000

    async def body() -> AsyncIterator[bytes]:
        for number in range(total):
            sent.append(number)
            yield chunk(text)
        yield chunk("end", finish="stop")
        yield DONE

    async def handler(_request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, body())

    async def scenario(world: World) -> None:
        await world.ready()
        async with AsyncExitStack() as stack:
            signed, reply = await opened(world, stack, chat_body(stream=True))
            await asyncio.sleep(5)
            assert len(sent) < total, "the engine waits for the reader"
            parts = [part async for part in reply.chunks(idle_deadline_ms=10_000)]
            answer = Answer(200, reply.headers, b"".join(parts), signed)
        assert len(sent) == total
        assert answer.data[-1] == "[DONE]"
        assert answer.receipt.outcome is Outcome.COMPLETE

    playing(scenario, prepare=with_engine(handler))


def test_a_cancel_reaches_the_engine_even_while_the_gateway_does_not_read() -> None:
    gone = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield chunk("x" * 10_000)
        finally:
            gone.set()

    async def handler(_request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, body())

    async def scenario(world: World) -> None:
        await world.ready()
        async with AsyncExitStack() as stack:
            signed, reply = await opened(world, stack, chat_body(stream=True))
            await asyncio.sleep(5)
            assert not gone.is_set()
            assert (await world.cancel(signed)).status == 200
            await world.until(gone.is_set, within_ms=1_000)
            parts = [part async for part in reply.chunks(idle_deadline_ms=10_000)]
            answer = Answer(200, reply.headers, b"".join(parts), signed)
        assert answer.receipt.outcome is Outcome.CLIENT_CANCELLED

    playing(scenario, prepare=with_engine(handler))
