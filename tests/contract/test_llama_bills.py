"""llama.cpp and the miner's two ends of a request together: what is asked, answered and billed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.engine_makers import DEADLINE_MS, Caller, make_world
from tests.makers import MANIFEST, make_order

from penstock.adapters.engines.catalogue import build_engine
from penstock.kit.engine import Capability, Engine, EngineLimits
from penstock.kit.wire.client import Reply
from penstock.miner.answers import Whole, whole_answer
from penstock.miner.normalise import Counts, Step, StreamReader
from penstock.miner.rewrite import Prepared, prepare
from penstock.miner.verdicts import passed_on

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LLAMA = replace(MANIFEST, engine="llamacpp")
TEXTS = ["Hello there", "What is the capital of Kenya?", ""]
IDS = [[351, 601], [5, 6, 7, 8, 9]]
SLOTS = 4


@dataclass(slots=True)
class Bench:
    """A started llama.cpp, asked as a miner asks it."""

    engine: Engine

    def prepared(self, path: str, fields: dict[str, Any], extra: set[Capability]) -> Prepared:
        stream = bool(fields.get("stream"))
        return prepare(
            msgspec.json.encode(fields),
            make_order(path=path, stream=stream, completion_max=400),
            manifest=LLAMA,
            model=self.engine.model,
            capabilities=self.engine.capabilities | extra,
        )

    async def post(
        self, path: str, fields: dict[str, Any], *extra: Capability
    ) -> tuple[Prepared, Reply]:
        ready = self.prepared(path, fields, set(extra))
        return ready, await Caller(self.engine).post(ready.engine_path, ready.body)

    async def whole(self, path: str, fields: dict[str, Any], *extra: Capability) -> Whole:
        ready, reply = await self.post(path, fields, *extra)
        assert reply.status == 200, reply.body
        kind = reply.header("content-type")
        answer = whole_answer(reply.body, kind, prepared=ready, manifest=LLAMA)
        assert answer is not None, reply.body
        return answer

    async def billed(self, fields: dict[str, Any]) -> Counts:
        counts = (await self.whole(COMPLETIONS, fields)).counts
        assert counts is not None
        return counts

    async def streamed(self, fields: dict[str, Any]) -> Counts:
        ready, reply = await self.post(COMPLETIONS, {**fields, "stream": True})
        read = StreamReader.of("m", ready).feed(reply.body)
        steps = [one for one in read if isinstance(one, Step)]
        return [step.counts for step in steps if step.counts is not None][-1]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    limits = EngineLimits(slots_max=SLOTS, context_tokens_max=512)
    world = make_world(tmp_path_factory.mktemp("llama"))
    engine = build_engine("llamacpp", "builtin:tiny-chat", limits, world=world)
    await engine.start(deadline_ms=DEADLINE_MS)
    yield Bench(engine)
    await engine.stop(deadline_ms=DEADLINE_MS)


@pytest.mark.parametrize("prompts", [TEXTS, IDS, [TEXTS[0], IDS[1]]])
async def test_a_batch_is_billed_as_its_prompts_are_one_by_one(
    bench: Bench, prompts: list[Any]
) -> None:
    rest = {"max_tokens": 4, "temperature": 0, "seed": 3}
    alone = [await bench.billed({"prompt": one, **rest}) for one in prompts]
    batch = await bench.billed({"prompt": prompts, **rest})
    assert batch.prompt == sum(one.prompt for one in alone) > alone[0].prompt
    assert batch.completion == sum(one.completion for one in alone)
    assert 0 <= batch.cached <= batch.prompt


@pytest.mark.parametrize("prompts", [TEXTS[:2], IDS])
async def test_a_batch_is_billed_alike_whole_and_streamed(bench: Bench, prompts: list[Any]) -> None:
    fields = {"prompt": prompts, "n": 2, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    whole, streamed = await bench.billed(fields), await bench.streamed(fields)
    assert (whole.prompt, whole.completion) == (streamed.prompt, streamed.completion)
    assert whole.completion == 2 * 2 * 4


async def test_a_batch_has_the_shape_of_one_answer(bench: Bench) -> None:
    rest = {"max_tokens": 3, "temperature": 0, "logprobs": 2, "stop": "zzz"}
    alone = msgspec.json.decode((await bench.whole(COMPLETIONS, {"prompt": "Hello", **rest})).body)
    batch = msgspec.json.decode(
        (await bench.whole(COMPLETIONS, {"prompt": ["Hello", "The fox"], **rest})).body
    )
    assert batch.keys() >= alone.keys() - {"timings", "system_fingerprint"}
    assert batch["id"].startswith("cmpl-")
    assert alone["id"].startswith("cmpl-")
    first, only = batch["choices"][0], alone["choices"][0]
    assert (first["text"], first["finish_reason"]) == (only["text"], only["finish_reason"])
    assert first["logprobs"].keys() == only["logprobs"].keys()
    assert len(first["logprobs"]["top_logprobs"][0]) == 2


async def test_a_prompt_beyond_the_context_is_a_refusal_in_a_batch_too(bench: Bench) -> None:
    _, reply = await bench.post(COMPLETIONS, {"prompt": ["Hello", "a " * 600], "max_tokens": 1})
    answer = passed_on(reply.status, reply.body, request_id="r", path=COMPLETIONS)
    assert answer.status == 400
    assert msgspec.json.decode(answer.body)["error"]["code"] == "context_length_exceeded"


async def test_of_two_tools_the_named_one_is_called(bench: Bench) -> None:
    """The question is one for the other tool."""
    tools = [tool("get_weather", "city", "string"), tool("add", "a", "number")]
    answer = await bench.whole(
        CHAT,
        {
            "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
            "tools": tools,
            "tool_choice": {"type": "function", "function": {"name": "add"}},
            "temperature": 0,
            "max_tokens": 200,
        },
        Capability.TOOL_CHOICE,
    )
    (choice,) = msgspec.json.decode(answer.body)["choices"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["add"]


@pytest.mark.parametrize("tokens", [[1_000_000], [5, 1_536]])
async def test_an_id_outside_the_vocabulary_is_refused_in_our_words(
    bench: Bench, tokens: list[int]
) -> None:
    _, reply = await bench.post("/detokenize", {"tokens": tokens})
    answer = passed_on(reply.status, reply.body, request_id="r", path="/detokenize")
    error = msgspec.json.decode(answer.body)["error"]
    assert (answer.status, error["param"], error["code"]) == (400, "tokens", "invalid_request")
    assert "vector" not in error["message"]


def tool(name: str, field: str, kind: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    described = {"name": name, "description": name.replace("_", " "), "parameters": parameters}
    return {"type": "function", "function": described}
