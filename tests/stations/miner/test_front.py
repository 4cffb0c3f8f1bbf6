"""Orders are served, metered and signed for; every way of ending has its receipt."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY, MANIFEST, toy_verify
from tests.stations.miner.scripted_engine import chunk, streaming, usage_chunk
from tests.stations.miner.world import World, chat_body, playing

from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.miner.verdicts import passed_on
from penstock.spec.keys import open_signed, sign
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS, Units

DONE = b"data: [DONE]\n\n"


def units(prompt: int, completion: int, *, cached: int = 0) -> Units:
    return Units(prompt=prompt, cached=cached, completion=completion, images=0, audio_ms=0)


def test_a_whole_answer_is_metered_signed_and_named_after_the_chute() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body("one two three"))
        assert answer.status == 200
        body = msgspec.json.decode(answer.body)
        assert body["model"] == "tiny-chat"
        assert body["choices"][0]["message"]["content"] == "one two three"
        receipt = answer.receipt
        assert receipt.outcome is Outcome.COMPLETE
        assert receipt.units == units(3, 3)
        assert receipt.seed == 7
        judged = answer.judged(Outcome.COMPLETE, charge_nano=receipt.charge_nano)
        assert judged.earned_nano == receipt.charge_nano > 0

    playing(scenario)


def test_a_stream_ends_with_done_then_the_receipt_and_the_law_accepts_it() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body("one two three", stream=True))
        assert answer.status == 200
        assert answer.headers[b"content-type"].startswith(b"text/event-stream")
        assert answer.data[-1] == "[DONE]"
        assert {event["model"] for event in answer.data[:-1]} == {"tiny-chat"}
        assert not any("usage" in event for event in answer.data[:-1])
        receipt = answer.receipt
        assert receipt.units == units(3, 3)
        assert receipt.events == len(answer.data)
        judged = answer.judged(Outcome.COMPLETE, charge_nano=receipt.charge_nano)
        assert judged.units == receipt.units

    playing(scenario)


def test_the_usage_event_is_passed_on_only_to_who_asked_for_it() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = chat_body("one two", stream=True, stream_options={"include_usage": True})
        answer = await world.call(body)
        assert answer.data[-2]["usage"]["completion_tokens"] == 2
        assert answer.data[-2]["choices"] == []
        assert answer.receipt.units == units(2, 2)

    playing(scenario)


def test_a_long_stream_carries_a_checkpoint_every_so_many_events() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        words = " ".join(f"w{number}" for number in range(150))
        answer = await world.call(chat_body(words, stream=True), completion_max=200)
        checkpoints = [
            open_signed(Checkpoint, signed, kind="checkpoint", verify=toy_verify)
            for signed in answer.words("checkpoint")
        ]
        every = LOCAL.checkpoint_events
        assert [one.events for one in checkpoints] == [every, 2 * every]
        assert checkpoints[0].units.completion < checkpoints[1].units.completion
        assert answer.receipt.units.completion == 150

    playing(scenario)


def test_an_answer_is_bound_by_the_ceiling_of_the_order() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body("one two three four", max_tokens=40), completion_max=2)
        assert answer.receipt.units.completion == 2

    playing(scenario)


def test_an_engine_that_claims_more_than_the_ceilings_is_held_to_them() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True), prompt_max=10, completion_max=5)
        assert answer.receipt.units == units(10, 5, cached=10)

    parts = (chunk("x", finish="stop"), usage_chunk(900, 900, cached=500), DONE)
    playing(scenario, prepare=with_engine(streaming(*parts)))


def test_embeddings_cost_prompt_units_only() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = msgspec.json.encode({"model": "tiny-chat", "input": ["one two", "three"]})
        order = sign("order", world.order(body, path="/v1/embeddings", completion_max=0), GATEWAY)
        answer = await world.post(order, body, path="/v1/embeddings")
        assert answer.status == 200
        assert msgspec.json.decode(answer.body)["model"] == "tiny-chat"
        assert answer.receipt.units == units(3, 0)

    playing(scenario)


def test_without_room_the_refusal_is_signed_and_says_so() -> None:
    hold = asyncio.Event()

    async def scenario(world: World) -> None:
        await world.ready()
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(world.call(chat_body(stream=True)))
                for _ in range(MANIFEST.limits.parallel_max)
            ]
            instance = next(iter(world.miner.parts.fleet.instances.values()))
            await world.until(lambda: instance.room == 0)
            before_ms = world.clock.now_ms()
            answer = await world.call(chat_body(stream=True))
            assert world.clock.now_ms() - before_ms < LOCAL.refusal_free_ms
            hold.set()
        assert (answer.status, answer.error) == (503, "no_capacity")
        assert answer.headers[b"retry-after"] == b"1"
        assert answer.receipt.outcome is Outcome.REFUSED
        judged = answer.judged(Outcome.REFUSED, charge_nano=0)
        assert not judged.counts
        assert [task.result().receipt.outcome for task in running] == [Outcome.COMPLETE] * 4
        assert answer.order.body["order_id"] not in world.kept

    parts = (chunk("a", finish="stop"), DONE)
    playing(scenario, prepare=with_engine(streaming(*parts, hold=hold)))


def answering(status: int, body: object) -> Any:
    async def handler(_request: Request) -> Response:
        return json_response(status, body)

    return handler


def with_engine(handler: Any) -> Any:
    def prepare(world: World) -> None:
        world.scripted(handler)

    return prepare


@pytest.mark.parametrize("stream", [False, True])
def test_a_4xx_of_the_engine_is_passed_on_and_costs_no_units(*, stream: bool) -> None:
    said = {"error": {"code": "context_length_exceeded", "message": "too long", "type": "x"}}

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=stream))
        assert answer.status == 400
        error = msgspec.json.decode(answer.body)["error"]
        assert (error["code"], error["message"]) == ("context_length_exceeded", "too long")
        assert answer.receipt.outcome is Outcome.COMPLETE
        assert answer.receipt.units == NO_UNITS
        assert answer.receipt.charge_nano == 0

    playing(scenario, prepare=with_engine(answering(400, said)))


def test_a_4xx_without_an_envelope_is_put_into_one() -> None:
    async def handler(_request: Request) -> Response:
        return Response(422, b"<html>no</html>")

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body())
        assert (answer.status, answer.error) == (422, "engine_refused")

    playing(scenario, prepare=with_engine(handler))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 501])
def test_a_500_that_blames_the_request_is_the_requests_fault_if_the_engine_is_well(
    *, stream: bool, status: int
) -> None:
    """Else a few wrong requests (an image for a text model) would trip every breaker of a model."""
    said = {
        "error": {"code": 500, "message": "image input is not supported", "type": "server_error"}
    }

    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=stream))
        assert (answer.status, answer.error) == (400, "engine_refused")
        assert b"image input is not supported" in answer.body
        assert answer.receipt.outcome is Outcome.COMPLETE
        assert answer.receipt.units == NO_UNITS

    playing(scenario, prepare=with_engine(answering(status, said)))


def test_an_engines_refusal_names_codes_as_openais_clients_know_them() -> None:
    long = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}
    shown = msgspec.json.decode(passed_on(400, msgspec.json.encode(long), request_id="r").body)[
        "error"
    ]
    assert (shown["code"], shown["type"]) == ("context_length_exceeded", "invalid_request_error")
    odd = {"error": {"code": [], "type": {}, "message": 7, "param": 1}}
    shown = msgspec.json.decode(passed_on(500, msgspec.json.encode(odd), request_id="r").body)[
        "error"
    ]
    assert (shown["code"], shown["param"]) == ("engine_refused", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 502, 401])
def test_a_failure_of_the_engine_before_any_byte_is_a_502(*, stream: bool, status: int) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=stream))
        assert (answer.status, answer.error) == (502, "miner_failed")
        assert answer.receipt.outcome is Outcome.MINER_FAILED
        judged = answer.judged(Outcome.MINER_FAILED, charge_nano=0)
        assert judged.earned_nano == 0
        assert world.kept == []

    playing(scenario, prepare=with_engine(answering(status, {})))


@pytest.mark.parametrize("status", [429, 503])
def test_an_engine_that_is_full_makes_a_refusal(status: int) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert answer.status == 503
        assert answer.receipt.outcome is Outcome.REFUSED

    playing(scenario, prepare=with_engine(answering(status, {})))


def test_an_answer_that_is_no_json_is_a_failure() -> None:
    async def handler(_request: Request) -> Response:
        return Response(200, b"<html>", (("content-type", "application/json"),))

    async def scenario(world: World) -> None:
        await world.ready()
        assert (await world.call(chat_body())).receipt.outcome is Outcome.MINER_FAILED

    playing(scenario, prepare=with_engine(handler))


def test_an_engine_that_ignores_stream_has_failed() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert (answer.status, answer.receipt.outcome) == (502, Outcome.MINER_FAILED)

    playing(scenario, prepare=with_engine(answering(200, {"choices": []})))


def cut_after(*parts: bytes) -> Any:
    """A stream that breaks off: the engine's connection closes without an end."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        raise ConnectionError("the engine's process died")

    async def handler(_request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, body())

    return handler


@pytest.mark.filterwarnings("ignore")
def test_an_engine_lost_in_mid_stream_gives_an_error_event_and_a_failed_receipt() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert answer.status == 200
        assert [event["choices"][0]["delta"]["content"] for event in answer.data[:2]] == ["a", "b"]
        assert answer.data[-1]["error"]["code"] == "miner_failed"
        assert "[DONE]" not in answer.data
        assert answer.receipt.outcome is Outcome.MINER_FAILED
        assert answer.receipt.charge_nano == 0
        answer.judged(Outcome.MINER_FAILED, charge_nano=0)

    playing(scenario, prepare=with_engine(cut_after(chunk("a"), chunk("b"))))


def test_an_engine_that_dies_before_its_first_event_is_a_502() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert (answer.status, answer.receipt.outcome) == (502, Outcome.MINER_FAILED)

    playing(scenario, prepare=with_engine(cut_after(b": hello\n\n")))


def test_an_error_event_of_the_engine_ends_the_stream_as_failed() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert answer.data[-1]["error"]["code"] == "miner_failed"
        assert len(answer.data) == 2
        assert answer.receipt.outcome is Outcome.MINER_FAILED

    bad = b'data: {"error": {"message": "out of memory"}}\n\n'
    playing(scenario, prepare=with_engine(streaming(chunk("a"), bad, chunk("b"), DONE)))


def test_a_stream_without_done_but_with_a_finish_reason_is_complete() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert answer.data[-1] == "[DONE]"
        assert answer.receipt.outcome is Outcome.COMPLETE
        assert answer.receipt.units == units(0, 2), "an engine without usage: content events"

    playing(scenario, prepare=with_engine(streaming(chunk("a"), chunk("b", finish="stop"))))


def test_a_silent_engine_is_given_up_after_its_deadline() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True))
        assert answer.data[-1]["error"]["code"] == "miner_failed"

    playing(
        scenario,
        prepare=with_engine(streaming(chunk("a"), hold=asyncio.Event())),
    )


def test_the_deadline_of_the_order_ends_the_work() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await world.call(chat_body(stream=True), deadline_ms=world.clock.now_ms() + 1_000)
        assert "deadline" in answer.data[-1]["error"]["message"]
        assert answer.receipt.outcome is Outcome.MINER_FAILED

    playing(
        scenario,
        prepare=with_engine(streaming(chunk("a"), hold=asyncio.Event())),
    )


def test_a_resting_connection_that_the_engine_closed_is_asked_again() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        first = await world.call(chat_body())
        await asyncio.sleep(30)
        second = await world.call(chat_body())
        assert (first.status, second.status) == (200, 200)

    playing(scenario)
