"""transformers for real, in our own worker: needs the extra `heavy` (`make up ALL=1`), else it is skipped.

The model is the shipped one, made from its GGUF, so llama.cpp tells what is right.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.engine_makers import (
    DEADLINE_MS,
    Caller,
    chat_body,
    data_events,
    make_world,
    text_of,
)
from training.tiny_chat.restore import restore

from penstock.adapters.engines.catalogue import EngineWorld, build_engine
from penstock.adapters.engines.model_files import gguf_path
from penstock.kit.engine import Capability, Engine, EngineLimits

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None,
        reason="the extra heavy is not installed: make up ALL=1",
    ),
]
LIMITS = EngineLimits(slots_max=2, context_tokens_max=256)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EngineWorld:
    world = make_world(tmp_path_factory.mktemp("transformers"))
    paths = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    restore(gguf_path("builtin:tiny-chat"), world.home / "tiny-chat")
    return replace(world, env={**world.env, **paths})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(world: EngineWorld) -> AsyncIterator[Engine]:
    engine = build_engine("transformers", f"file:{world.home}/tiny-chat", LIMITS, world=world)
    await engine.start(deadline_ms=4 * DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=DEADLINE_MS)


async def test_it_was_seen_to_do_what_it_follows_and_nothing_else(engine: Engine) -> None:
    assert engine.capabilities == {
        *(Capability.CHAT, Capability.COMPLETIONS, Capability.STREAM, Capability.LOGPROBS),
        *(Capability.SEED, Capability.N, Capability.STOP),
        *(Capability.TOKENIZE, Capability.TEMPLATE),
    }


async def test_it_says_what_llama_cpp_says_of_the_same_weights(
    engine: Engine, world: EngineWorld
) -> None:
    llama = build_engine("llamacpp", "builtin:tiny-chat", LIMITS, world=world)
    await llama.start(deadline_ms=DEADLINE_MS)
    try:
        for question in ("capital of Kenya?", "Hello!"):
            said = [
                text_of(await Caller(one).chat(question, max_tokens=24)) for one in (engine, llama)
            ]
            assert said[0] == said[1]
    finally:
        await llama.stop(deadline_ms=DEADLINE_MS)


async def test_a_stream_says_the_same_and_ends_with_its_counts(engine: Engine) -> None:
    whole = await Caller(engine).chat("capital of Kenya?", max_tokens=40)
    body = chat_body("capital of Kenya?", max_tokens=40, stream=True)
    *events, done = data_events((await Caller(engine).post(CHAT, body)).body)
    *chunks, last = [msgspec.json.decode(event) for event in events]
    assert done == b"[DONE]"
    assert last["usage"] == whole["usage"]
    said = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "".join(said) == text_of(whole)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_seed_repeats_and_another_changes_it(engine: Engine) -> None:
    async def sampled(seed: int) -> str:
        fields = {"seed": seed, "temperature": 1.5, "max_tokens": 20}
        return text_of(await Caller(engine).chat("Tell me a story.", **fields))

    together = await asyncio.gather(*(sampled(seed) for seed in (1, 2, 3)))
    assert together == [await sampled(seed) for seed in (1, 2, 3)]
    assert len(set(together)) > 1


async def test_it_stops_before_the_text_and_counts_what_it_worked(engine: Engine) -> None:
    whole = text_of(await Caller(engine).chat("capital of Kenya?", max_tokens=40))
    cut = await Caller(engine).chat("capital of Kenya?", max_tokens=40, stop=["is Nai"])
    assert text_of(cut) == whole[: whole.index("is Nai")]
    assert cut["choices"][0]["finish_reason"] == "stop"


async def test_several_answers_are_counted_whole(engine: Engine) -> None:
    answer = await Caller(engine).chat("Tell me a story.", n=3, max_tokens=4, temperature=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 12


async def test_logprobs_add_up_to_no_more_than_one(engine: Engine) -> None:
    answer = await Caller(engine).chat("Hello!", max_tokens=1, logprobs=True, top_logprobs=20)
    [told] = answer["choices"][0]["logprobs"]["content"]
    shares = [2.718281828 ** item["logprob"] for item in told["top_logprobs"]]
    assert told["logprob"] == max(item["logprob"] for item in told["top_logprobs"])
    assert 0 < sum(shares) <= 1.0001
    body = {"prompt": "Hello", "max_tokens": 2, "temperature": 0, "logprobs": 1}
    legacy = msgspec.json.decode((await Caller(engine).post("/v1/completions", body)).body)
    assert len(legacy["choices"][0]["logprobs"]["token_logprobs"]) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("presence_penalty", 0.5),
        ("logit_bias", {"7": 1}),
        ("min_p", 0.1),
        ("no_such_field", 1),
    ],
)
async def test_what_it_does_not_follow_is_refused_by_name(
    engine: Engine, field: str, value: Any
) -> None:
    reply = await Caller(engine).post(CHAT, chat_body("Hello!", **{field: value}))
    assert reply.status == 400
    error = msgspec.json.decode(reply.body)["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", field)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b'{"messages": []}',
        b'{"messages": "hi"}',
        b'{"messages": [{"role": "user", "content": "hi"}], "n": 1000}',
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": -1}',
    ],
)
async def test_a_bad_request_gets_a_4xx(engine: Engine, body: bytes) -> None:
    reply = await Caller(engine).post(CHAT, body)
    assert 400 <= reply.status < 500
    assert msgspec.json.decode(reply.body)["error"]["message"]


async def test_a_prompt_that_is_too_long_is_refused(engine: Engine) -> None:
    reply = await Caller(engine).post(CHAT, chat_body("word " * 500))
    assert reply.status == 400
    assert msgspec.json.decode(reply.body)["error"]["code"] == "context_length_exceeded"


async def test_who_hangs_up_is_not_answered_to_the_end(engine: Engine) -> None:
    await Caller(engine).first_event("Tell me a story.", max_tokens=200)
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while (await engine.stats()).running:
            await asyncio.sleep(0.02)


async def test_nothing_of_a_prompt_is_kept_for_the_next(engine: Engine) -> None:
    for _ in range(2):
        usage = (await Caller(engine).chat("capital of Kenya?", max_tokens=2))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0
