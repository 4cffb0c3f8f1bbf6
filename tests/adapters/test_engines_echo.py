"""The echo engine: exact answers, bounded slots and queue, and the same bytes every time."""

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.engine_makers import DEADLINE_MS, Caller, chat_body, data_events, text_of

from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.adapters.engines.echo_answers import (
    embeddings_answer,
    read_chat,
    read_completion,
    unit_vector,
)
from penstock.adapters.engines.slots import Slots
from penstock.kit.engine import Capability, EngineFailed
from penstock.kit.wire.problem import Refusal
from penstock.kit.wire.sockets import Sockets

WAIT_S = DEADLINE_MS / 1000


def make_echo(settings: EchoSettings) -> Echo:
    return Echo(settings, network=Sockets(), entropy=os.urandom)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    engine = make_echo(EchoSettings(token_ms=0, slots_max=1, queue_max=0))
    await engine.start(deadline_ms=DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=0)


async def test_the_last_user_message_comes_back_word_by_word(echo: Echo) -> None:
    body = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [{"type": "text", "text": "one  two"}, {"text": "three"}]},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reply = await Caller(echo).post("/v1/chat/completions", body)
    role, *words, end, usage, done = data_events(reply.body)
    deltas = [msgspec.json.decode(word)["choices"][0]["delta"]["content"] for word in words]
    assert deltas == ["one", " two", " three"]
    assert b'"role":"assistant"' in role
    assert b'"finish_reason":"stop"' in end
    assert msgspec.json.decode(usage)["usage"]["prompt_tokens"] == 7
    assert done == b"[DONE]"


async def test_without_include_usage_no_event_carries_usage(echo: Echo) -> None:
    reply = await Caller(echo).post("/v1/chat/completions", chat_body("a b", stream=True))
    assert b"usage" not in reply.body


async def test_either_token_limit_cuts_and_the_newer_name_wins(echo: Echo) -> None:
    caller = Caller(echo)
    assert text_of(await caller.chat("a b c", max_tokens=2)) == "a b"
    assert text_of(await caller.chat("a b c", max_tokens=3, max_completion_tokens=1)) == "a"


async def test_it_serves_everything_but_chance_and_guided_completions(echo: Echo) -> None:
    absent = {Capability.SEED, Capability.COMPLETION_FORMAT, Capability.PROMPT_LOGPROBS}
    absent |= {Capability.CACHE_SALT, Capability.CACHE_SLOTS, Capability.LORA, Capability.SUSPEND}
    assert echo.capabilities == set(Capability) - absent


async def test_it_stops_before_the_first_of_the_texts(echo: Echo) -> None:
    caller = Caller(echo)
    for stop, expected in (
        ("three", "one two "),
        (["ee", "wo"], "one t"),
        ("one", ""),
        ("x", None),
    ):
        answer = await caller.chat("one two three", stop=stop)
        assert text_of(answer) == (expected if expected is not None else "one two three")
        assert answer["choices"][0]["finish_reason"] == "stop"


async def test_health_and_metrics_are_served(echo: Echo) -> None:
    assert (await Caller(echo).get("/health")).status == 200
    assert b"penstock_echo_running 0" in (await Caller(echo).get("/metrics")).body


async def test_a_full_engine_answers_429_and_frees_the_slot_of_who_hangs_up() -> None:
    engine = make_echo(EchoSettings(token_ms=0, slots_max=1, queue_max=0))
    await engine.start(deadline_ms=DEADLINE_MS)
    engine.settings = EchoSettings(token_ms=3_600_000, slots_max=1, queue_max=0)
    caller = Caller(engine)
    hanging = asyncio.ensure_future(caller.chat("a b"))
    async with asyncio.timeout(WAIT_S):
        while (await engine.stats()).running == 0:
            await asyncio.sleep(0.01)
    refused = await caller.post("/v1/chat/completions", chat_body("c"))
    assert refused.status == 429
    assert msgspec.json.decode(refused.body)["error"]["code"] == "engine_full"
    hanging.cancel()
    engine.settings = EchoSettings(token_ms=0, slots_max=1, queue_max=0)
    async with asyncio.timeout(WAIT_S):
        while (await engine.stats()).running > 0:
            await asyncio.sleep(0.01)
    assert text_of(await caller.chat("c")) == "c"
    await engine.stop(deadline_ms=0)


async def test_a_stream_that_is_hung_up_frees_its_slot() -> None:
    engine = make_echo(EchoSettings(token_ms=0, slots_max=1, queue_max=0))
    await engine.start(deadline_ms=DEADLINE_MS)
    engine.settings = EchoSettings(token_ms=3_600_000)
    await Caller(engine).first_event("a b")
    async with asyncio.timeout(WAIT_S):
        while (await engine.stats()).running > 0:
            await asyncio.sleep(0.01)
    await engine.stop(deadline_ms=0)


async def test_slots_are_taken_in_the_order_asked_and_the_queue_is_bounded() -> None:
    slots = Slots(slots_max=1, queue_max=1)
    await slots.take()
    async with asyncio.TaskGroup() as group:
        second = group.create_task(slots.take())
        await asyncio.sleep(0)
        assert (slots.running, slots.waiting) == (1, 1)
        with pytest.raises(Refusal):
            await slots.take()
        slots.give()
        await second
    assert (slots.running, slots.waiting) == (1, 0)


async def test_one_who_waits_and_leaves_holds_nothing() -> None:
    slots = Slots(slots_max=1, queue_max=1)
    await slots.take()
    waiting = asyncio.ensure_future(slots.take())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    slots.give()
    assert (slots.running, slots.waiting) == (0, 0)
    await slots.take()


async def test_a_taken_port_is_a_failure_with_a_remedy(echo: Echo) -> None:
    port = int(echo.address.rsplit(":", 1)[1])
    rival = make_echo(EchoSettings(port=port))
    with pytest.raises(EngineFailed, match="port"):
        await rival.start(deadline_ms=DEADLINE_MS)


def test_equal_questions_give_equal_bytes() -> None:
    body = msgspec.json.encode(chat_body("a b c", seed=1))
    one, other = read_chat(body), read_chat(body)
    assert one.whole("echo-1") == other.whole("echo-1")
    assert list(one.closing("echo-1")) == list(other.closing("echo-1"))


def test_a_completion_echoes_its_prompt_in_the_legacy_shape() -> None:
    answer = read_completion(b'{"prompt": "a b", "max_tokens": 1}')
    choice = answer.whole("echo-1")["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("a", "length")
    assert list(answer.opening("echo-1")) == []


def test_vectors_depend_on_the_text_alone_and_have_length_one() -> None:
    assert unit_vector("a") == unit_vector("a")
    assert unit_vector("a") != unit_vector("b")
    assert sum(value * value for value in unit_vector("a")) == pytest.approx(1)
    assert len(embeddings_answer(b'{"input": ["a", "b c"]}')["data"]) == 2


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages": []}', b'{"messages": [{}]}', b"\xff"])
def test_what_is_no_chat_request_is_refused_with_400(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_chat(body)
    assert refused.value.response.status == 400


def test_a_suffix_is_part_of_the_question() -> None:
    body = {"prompt": "one two", "suffix": "three"}
    answer = read_completion(msgspec.json.encode(body))
    assert answer.prompt_tokens == 3
    assert "".join(answer.choices[0].tokens) == "one two three"
