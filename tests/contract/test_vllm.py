"""vLLM for real, on this processor: what its dialect says of it. Only `make nightly` has it.

One engine is started for all; the last test stops it.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from safetensors.numpy import save_file
from tests.engine_makers import (
    DEADLINE_MS,
    VLLM_PYTHON,
    Caller,
    chat_body,
    data_events,
    make_vllm,
    make_world,
    text_of,
)
from tests.makers import MANIFEST, make_order

from penstock.adapters.engines.catalogue import build_engine
from penstock.adapters.engines.parsers import VLLM_REASONING, VLLM_TOOLS
from penstock.adapters.engines.served import ServedEngine
from penstock.kit.engine import Capability, EngineLimits
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets
from penstock.miner.rewrite import prepare

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not VLLM_PYTHON, reason="vLLM is not here: make nightly"),
]
CHAT = "/v1/chat/completions"
LONG = "Tell me all about the rivers, the hills and the long roads between them. " * 12
VLLM = replace(MANIFEST, engine="vllm")
HIDDEN, LAYERS, RANK = 192, 4, 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(home: Path) -> AsyncIterator[ServedEngine]:
    engine = make_vllm(home, PENSTOCK_ENGINE_LORA_RANK="8")
    await engine.start(deadline_ms=DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=DEADLINE_MS)


async def test_it_was_seen_to_do_all_of_this(engine: ServedEngine) -> None:
    """Sleep is for graphics cards, a suffix for models that were trained for it."""
    assert engine.capabilities == {
        *(Capability.CHAT, Capability.COMPLETIONS, Capability.STREAM, Capability.LOGPROBS),
        *(Capability.JSON_SCHEMA, Capability.TOOLS, Capability.TOOL_CHOICE, Capability.SEED),
        *(Capability.TOKENIZE, Capability.TEMPLATE, Capability.ECHO, Capability.N),
        *(Capability.STOP, Capability.PROMPT_LOGPROBS, Capability.COMPLETION_FORMAT),
        *(Capability.CACHE_SALT, Capability.LORA),
    }


async def test_without_its_key_it_answers_nobody(engine: ServedEngine) -> None:
    client = HttpClient(Sockets())
    reply = await client.call("GET", f"{engine.address}/v1/models", deadline_ms=DEADLINE_MS)
    await client.close()
    assert reply.status == 401
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert engine.headers[0][1].removeprefix("Bearer ").encode() not in shown


async def test_its_counts_reach_the_port(engine: ServedEngine) -> None:
    before = await engine.stats()
    await Caller(engine).chat("capital of Kenya?", max_tokens=5)
    after = await engine.stats()
    assert after.generated_tokens - before.generated_tokens == 5
    assert after.prompt_tokens > before.prompt_tokens
    running = asyncio.ensure_future(
        Caller(engine).chat("Tell me a story.", max_tokens=400, ignore_eos=True)
    )
    seen = await engine.stats()
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while not (seen.running and seen.kv_used_ppm) and not running.done():
            seen = await engine.stats()
    assert (seen.running, seen.kv_used_ppm > 0) == (1, True)
    await running


async def test_two_engines_say_the_same_of_the_same_weights(
    engine: ServedEngine, home: Path
) -> None:
    limits = EngineLimits(slots_max=1, context_tokens_max=512)
    llama = build_engine("llamacpp", "builtin:tiny-chat", limits, world=make_world(home))
    await llama.start(deadline_ms=DEADLINE_MS)
    try:
        for question in ("capital of Kenya?", "What is 2 + 2?", "Hello!"):
            said = [
                text_of(await Caller(one).chat(question, max_tokens=24)) for one in (engine, llama)
            ]
            assert said[0] == said[1]
    finally:
        await llama.stop(deadline_ms=DEADLINE_MS)


async def cached(engine: ServedEngine, payer_tag: str, **fields: Any) -> int:
    """The tokens of a prompt that one payer's order finds in the cache."""
    ready = prepare(
        msgspec.json.encode(chat_body(LONG, max_tokens=1, **fields)),
        make_order(path=CHAT, stream=False, payer_tag=payer_tag),
        manifest=VLLM,
        model=engine.model,
        capabilities=engine.capabilities,
        salt_key=b"s" * 32,
    )
    reply = await Caller(engine).post(ready.engine_path, ready.body)
    assert reply.status == 200, reply.body
    usage = msgspec.json.decode(reply.body)["usage"]
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


async def test_a_payer_finds_their_own_prompt_and_nobody_elses(engine: ServedEngine) -> None:
    assert await cached(engine, "payer-a") == 0
    assert await cached(engine, "payer-a") >= 128
    assert await cached(engine, "payer-b") == 0
    assert await cached(engine, "payer-b") >= 128
    assert await cached(engine, "payer-b", cache_salt="one of their users") == 0


def write_adapter(folder: Path) -> None:
    """A LoRA that turns every answer into noise, in the layout of PEFT."""
    folder.mkdir()
    noise = np.random.default_rng(7)
    tensors = {}
    for layer in range(LAYERS):
        head = f"base_model.model.model.layers.{layer}.self_attn"
        for part in ("q_proj", "v_proj"):
            tensors[f"{head}.{part}.lora_A.weight"] = noise.normal(size=(RANK, HIDDEN))
            tensors[f"{head}.{part}.lora_B.weight"] = noise.normal(size=(HIDDEN, RANK))
    save_file(
        {name: value.astype(np.float32) for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-chat",
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_bytes(msgspec.json.encode(config))


async def test_an_adapter_comes_and_goes_while_it_runs(engine: ServedEngine, home: Path) -> None:
    write_adapter(home / "noise")
    plain = text_of(await Caller(engine).chat("capital of Kenya?", max_tokens=12))
    await engine.load_adapter("noise", home / "noise")
    body = chat_body("capital of Kenya?", max_tokens=12, model="noise")
    reply = await Caller(engine).post(CHAT, msgspec.json.encode(body))
    assert reply.status == 200, reply.body
    assert text_of(msgspec.json.decode(reply.body)) != plain
    await engine.unload_adapter("noise")
    gone = await Caller(engine).post(CHAT, msgspec.json.encode(body))
    assert gone.status == 404
    assert text_of(await Caller(engine).chat("capital of Kenya?", max_tokens=12)) == plain


async def test_it_knows_the_parsers_that_we_name() -> None:
    code = (
        "from vllm.tool_parsers import ToolParserManager as t;"
        "from vllm.reasoning import ReasoningParserManager as r;"
        "print(*t.list_registered(), '|', *r.list_registered())"
    )
    env = {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "VLLM_NO_USAGE_STATS": "1"}
    ran = subprocess.run([VLLM_PYTHON, "-c", code], capture_output=True, check=True, env=env)
    tools, _, thoughts = ran.stdout.decode().splitlines()[-1].partition("|")
    assert set(VLLM_TOOLS.values()) <= set(tools.split())
    assert set(VLLM_REASONING.values()) <= set(thoughts.split())


async def test_the_next_agent_takes_it_over_as_it_is(engine: ServedEngine, home: Path) -> None:
    other = make_vllm(home, PENSTOCK_ENGINE_LORA_RANK="8")
    later = ServedEngine(
        other._dialect, runtime=engine._runtime, network=Sockets(), name=engine.name
    )
    before = await engine.stats()
    await later.start(deadline_ms=DEADLINE_MS)
    assert later.address == engine.address
    assert (await later.stats()).generated_tokens > before.generated_tokens > 0


async def test_a_running_answer_ends_before_it_is_stopped(engine: ServedEngine) -> None:
    body = chat_body("Tell me a story.", max_tokens=600, ignore_eos=True, stream=True)
    answer = asyncio.ensure_future(Caller(engine).post(CHAT, body))
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while not (await engine.stats()).running and not answer.done():
            await asyncio.sleep(0.01)
    await engine.stop(deadline_ms=DEADLINE_MS)
    assert data_events((await answer).body)[-1] == b"[DONE]"
    assert (await engine.wait_exit()).wanted
