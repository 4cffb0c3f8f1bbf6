"""The llama.cpp worker and its supervisor: what happens when processes and files go wrong."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.engine_makers import DEADLINE_MS, Caller, child_of, make_world, text_of

from penstock.adapters.engines.catalogue import build_engine
from penstock.adapters.engines.llamacpp import LlamaCpp
from penstock.adapters.engines.llamacpp_worker import WorkerSettings
from penstock.adapters.engines.model_files import gguf_path
from penstock.adapters.engines.served import remedy_of
from penstock.adapters.engines.worker_pipe import WorkerReady
from penstock.kit.engine import Capability, EngineFailed, EngineLimits
from penstock.kit.runtime import Ending, Runtime

LIMITS = EngineLimits(slots_max=2, context_tokens_max=512)
WAIT_S = DEADLINE_MS / 1000
WORKER = (sys.executable, "-m", "penstock.adapters.engines.llamacpp_worker")

PARENT = """
import asyncio, os, sys
from pathlib import Path
from penstock.kit.engine import EngineLimits
from penstock.adapters.engines.catalogue import EngineWorld, build_engine
from penstock.kit.wire.sockets import Sockets

async def main():
    world = EngineWorld(Sockets(), os.urandom, Path(sys.argv[1]), {"PATH": "/usr/bin:/bin"})
    engine = build_engine("llamacpp", "builtin:tiny-chat", EngineLimits(slots_max=1), world=world)
    await engine.start(deadline_ms=60_000)
    print(engine._runtime._lives[engine.name].child.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def make_engine(home: Path, source: str = "builtin:tiny-chat") -> LlamaCpp:
    engine = build_engine("llamacpp", source, LIMITS, world=make_world(home))
    assert isinstance(engine, LlamaCpp)
    return engine


def runtime_of(engine: LlamaCpp) -> Runtime:
    return engine._runtime


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LlamaCpp]:
    engine = make_engine(tmp_path)
    await engine.start(deadline_ms=DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=DEADLINE_MS)


def open_worker(path: Path) -> subprocess.Popen[bytes]:
    settings = WorkerSettings(
        path=str(path),
        model="m",
        slots_max=1,
        context_tokens_max=128,
        threads=1,
        embeddings=False,
    )
    worker = subprocess.Popen(
        WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert worker.stdin is not None
    worker.stdin.write(msgspec.json.encode(settings) + b"\n")
    worker.stdin.flush()
    return worker


def read_line(worker: subprocess.Popen[bytes]) -> WorkerReady:
    assert worker.stdout is not None
    return msgspec.json.decode(worker.stdout.readline(), type=WorkerReady)


async def wait_gone(pid: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.02)


def test_the_worker_ends_when_its_stdin_closes() -> None:
    worker = open_worker(gguf_path("builtin:tiny-chat"))
    ready = read_line(worker)
    assert ready.address.startswith("http://127.0.0.1:")
    assert ready.version
    worker.communicate(timeout=WAIT_S)
    assert worker.returncode == 0


def test_the_worker_ends_at_once_on_sigterm() -> None:
    worker = open_worker(gguf_path("builtin:tiny-chat"))
    read_line(worker)
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=WAIT_S)
    worker.communicate()
    assert worker.returncode == -signal.SIGTERM


def test_the_worker_says_so_when_the_file_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    worker = open_worker(broken)
    line = read_line(worker)
    worker.communicate(timeout=WAIT_S)
    assert str(broken) in line.error
    assert not line.address
    assert worker.returncode == 1


def test_the_worker_shows_no_settings_in_the_process_list() -> None:
    worker = open_worker(gguf_path("builtin:tiny-chat"))
    read_line(worker)
    shown = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    worker.communicate(timeout=WAIT_S)
    assert b"gguf" not in shown


async def test_the_shipped_model_was_seen_to_do_all_of_this(engine: LlamaCpp) -> None:
    """And not `tool_choice`: where it is `required`, it talks on instead, to the last token."""
    assert engine.capabilities == {
        *(Capability.CHAT, Capability.COMPLETIONS, Capability.STREAM, Capability.LOGPROBS),
        *(Capability.JSON_SCHEMA, Capability.TOOLS, Capability.SEED, Capability.N),
        *(Capability.STOP, Capability.CACHE_SLOTS),
        *(Capability.TOKENIZE, Capability.TEMPLATE),
    }


async def test_kill_9_is_seen_as_an_exit_with_a_cause_and_a_remedy(engine: LlamaCpp) -> None:
    os.kill(child_of(engine).pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        ended = await engine.wait_exit()
    assert not ended.wanted
    assert "status -9" in ended.reason
    assert "dmesg" in ended.remedy
    assert not (await engine.stats()).ready


async def test_an_engine_starts_again_after_its_process_died(engine: LlamaCpp) -> None:
    os.kill(child_of(engine).pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        await engine.wait_exit()
    await engine.start(deadline_ms=DEADLINE_MS)
    answer = await Caller(engine).chat("capital of France?", max_tokens=40)
    assert "Paris" in text_of(answer)


async def test_no_worker_outlives_a_miner_that_was_killed(tmp_path: Path) -> None:
    miner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert miner.stdout is not None
    async with asyncio.timeout(WAIT_S):
        worker_pid = int(await miner.stdout.readline())
    assert Path(f"/proc/{worker_pid}").exists()
    miner.kill()
    await miner.wait()
    await wait_gone(worker_pid)


async def test_stop_lets_a_running_answer_end(engine: LlamaCpp) -> None:
    answer = asyncio.ensure_future(
        Caller(engine).chat("Tell me a story.", max_tokens=400, ignore_eos=True)
    )
    async with asyncio.timeout(WAIT_S):
        while (await engine.stats()).running == 0 and not answer.done():
            await asyncio.sleep(0)
    await engine.stop(deadline_ms=DEADLINE_MS)
    assert (await answer)["usage"]["completion_tokens"] == 400


async def test_a_hung_up_answer_is_not_written_to_its_end(engine: LlamaCpp) -> None:
    before = await predicted_total(engine)
    await Caller(engine).first_event("Tell me a story.", max_tokens=450, ignore_eos=True)
    async with asyncio.timeout(WAIT_S):
        while (await engine.stats()).running > 0:
            await asyncio.sleep(0.02)
    assert await predicted_total(engine) - before < 450


async def predicted_total(engine: LlamaCpp) -> int:
    page = (await Caller(engine).get("/metrics")).body.decode()
    lines = [
        line for line in page.splitlines() if line.startswith("llamacpp:tokens_predicted_total")
    ]
    return int(lines[0].split()[1])


async def test_a_prompt_longer_than_a_slot_is_refused(engine: LlamaCpp) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 1000}]}
    reply = await Caller(engine).post("/v1/chat/completions", body)
    assert reply.status == 400
    assert msgspec.json.decode(reply.body)["error"]["type"] == "exceed_context_size_error"


async def test_a_repeated_prompt_is_reported_as_cached(engine: LlamaCpp) -> None:
    question = "What is the capital of Norway?"
    await Caller(engine).chat(question, max_tokens=4)
    usage = (await Caller(engine).chat(question, max_tokens=4))["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < usage["prompt_tokens"]


async def test_a_file_that_is_no_model_fails_with_its_path_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    engine = make_engine(tmp_path, f"file:{broken}")
    with pytest.raises(EngineFailed) as failed:
        await engine.start(deadline_ms=DEADLINE_MS)
    assert str(broken) in failed.value.reason + failed.value.log_tail
    assert "GGUF" in str(failed.value)
    assert await runtime_of(engine).list() == ()


async def test_a_missing_file_is_named_before_anything_starts(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, f"file:{tmp_path}/absent.gguf")
    with pytest.raises(EngineFailed, match="There is no model file"):
        await engine.start(deadline_ms=DEADLINE_MS)
    assert await runtime_of(engine).list() == ()


async def test_a_start_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    with pytest.raises(EngineFailed, match=r"not ready|no address"):
        await engine.start(deadline_ms=30)
    assert await runtime_of(engine).list() == ()


def test_an_end_is_explained_by_the_last_words_or_else_by_its_signal() -> None:
    assert "dmesg" in remedy_of(Ending(-signal.SIGKILL, "killed", ""))
    assert "shorter context" in remedy_of(Ending(1, "", "torch.OutOfMemoryError: no"))
    assert "log" in remedy_of(Ending(1, "it ended", "good bye"))


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineLimits(slots_max=0)
