"""vLLM and SGLang as tasks: their command lines, environments and words. What runs for real of vLLM is
in tests/contract/test_vllm.py; SGLang needs a graphics card, so of it there is only this.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engine_makers import make_world

from penstock.adapters.engines.catalogue import build_engine, model_digest
from penstock.adapters.engines.dialect import Dialect, start_ms
from penstock.adapters.engines.ranks import BOOT
from penstock.adapters.engines.server_options import ServerGround, engine_key, read_options
from penstock.adapters.engines.sglang import sglang_dialect
from penstock.adapters.engines.vllm import vllm_dialect
from penstock.kit.engine import EngineFailed, EngineLimits, Sleep
from penstock.kit.runtime import Reach, Task, check_task
from penstock.miner.llama_request import NATIVE_PATH, TEMPLATE_PATH
from penstock.miner.paths import PATHS

BUILDERS = {"vllm": vllm_dialect, "sglang": sglang_dialect}
LIMITS = EngineLimits(slots_max=8, context_tokens_max=4096, threads=2)
CARDS = replace(LIMITS, gpu_uuids=("GPU-1", "GPU-2"), gpu_share_ppm=450_000)
KEY = b"k" * 32
HERMES = "{% if tools %}<tool_call>{% endif %}"
CONTROL = (
    *("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/v1/load_lora_adapter"),
    *("/v1/unload_lora_adapter", "/load_lora_adapter", "/release_memory_occupation"),
    *("/resume_memory_occupation", "/update_weights_from_disk", "/flush_cache", "/server_info"),
    *("/pause", "/slots", "/props", "/lora-adapters", "/invocations", "/v1/responses"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "demo")


def make_folder(path: Path, template: str = HERMES, **config: Any) -> Path:
    path.mkdir()
    fields = {"model_type": "llama", "max_position_embeddings": 8192, "dtype": "float32"}
    (path / "config.json").write_text(json.dumps({**fields, **config}))
    (path / "chat_template.jinja").write_text(template)
    return path


def make_dialect(kind: str, folder: Path, limits: EngineLimits = LIMITS, **env: str) -> Dialect:
    key = b"" if env.pop("KEY", "yes") == "no" else KEY
    ground = ServerGround({"PATH": "/bin", "HOME": "/root", **env}, key, folder.parent / "cache")
    return BUILDERS[kind]("demo", lambda: folder, limits, ground=ground)


def make_task(kind: str, folder: Path, limits: EngineLimits = LIMITS, **env: str) -> Task:
    task = make_dialect(kind, folder, limits, **env).launch("one").task
    check_task(task)
    return task


def value_of(task: Task, flag: str) -> str:
    return task.argv[task.argv.index(flag) + 1]


def test_vllm_is_told_its_bounds_and_formats(folder: Path) -> None:
    task = make_task("vllm", folder)
    assert task.argv[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    assert value_of(task, "--model") == str(folder)
    assert value_of(task, "--served-model-name") == "demo"
    assert value_of(task, "--max-model-len") == "4096"
    assert value_of(task, "--max-num-seqs") == "8"
    assert value_of(task, "--max-num-queued-reqs") == "32"
    assert value_of(task, "--dtype") == "float32"
    assert value_of(task, "--tool-call-parser") == "hermes"
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(task.argv)
    assert not {"--tensor-parallel-size", "--enable-lora", "--enforce-eager"} & set(task.argv)


def test_sglang_is_told_the_same_in_its_own_words(folder: Path) -> None:
    task = make_task("sglang", folder)
    assert task.argv[:3] == (sys.executable, "-m", "sglang.launch_server")
    assert value_of(task, "--model-path") == str(folder)
    assert value_of(task, "--context-length") == "4096"
    assert value_of(task, "--max-running-requests") == "8"
    assert value_of(task, "--max-queued-requests") == "32"
    assert value_of(task, "--tool-call-parser") == "hermes"
    assert value_of(task, "--device") == "cpu"
    assert {"--enable-metrics", "--enable-cache-report"} <= set(task.argv)


@pytest.mark.parametrize(
    ("template", "config", "vllm", "sglang"),
    [
        ("<|python_tag|>", {}, "llama3_json", "llama3"),
        ("<minimax:tool_call>", {}, "minimax_m2", "minimax-m2"),
        ("<tool_call><function=", {}, "qwen3_coder", "qwen3_coder"),
    ],
)
def test_each_spells_a_format_in_its_own_way(
    tmp_path: Path, template: str, config: dict[str, Any], vllm: str, sglang: str
) -> None:
    folder = make_folder(tmp_path / "other", template, **config)
    assert value_of(make_task("vllm", folder), "--tool-call-parser") == vllm
    assert value_of(make_task("sglang", folder), "--tool-call-parser") == sglang


def test_thoughts_are_told_apart_by_each_in_its_own_words(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "r1", "<think>")
    assert value_of(make_task("vllm", folder), "--reasoning-parser") == "deepseek_r1"
    assert value_of(make_task("sglang", folder), "--reasoning-parser") == "deepseek-r1"


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_format_that_is_not_known_offers_no_tools(tmp_path: Path, kind: str) -> None:
    folder = make_folder(tmp_path / "plain", "{{ messages }}")
    assert not {"--tool-call-parser", "--reasoning-parser"} & set(make_task(kind, folder).argv)


def test_a_model_for_vectors_gets_a_runner_for_vectors(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert", "", model_type="bert")
    assert value_of(make_task("vllm", folder), "--runner") == "pooling"
    assert "--enable-prefix-caching" not in make_task("vllm", folder).argv
    assert "--is-embedding" in make_task("sglang", folder).argv


@pytest.mark.parametrize(
    ("kind", "share", "cards"),
    [
        ("vllm", "--gpu-memory-utilization", "--tensor-parallel-size"),
        ("sglang", "--mem-fraction-static", "--tp-size"),
    ],
)
def test_cards_are_named_and_shared_by_tensors(
    folder: Path, kind: str, share: str, cards: str
) -> None:
    task = make_task(kind, folder, CARDS)
    assert (value_of(task, share), value_of(task, cards)) == ("0.450", "2")
    assert (task.needs.gpus, task.needs.gpu_uuids) == (2, CARDS.gpu_uuids)
    assert task.needs.reach is Reach.OWN


@pytest.mark.parametrize("kind", BUILDERS)
def test_several_machines_get_their_ranks_from_the_runtime(folder: Path, kind: str) -> None:
    limits = replace(CARDS, nodes=2)
    task = make_task(kind, folder, limits)
    assert task.argv[1:3] == ("-c", BOOT)
    assert (task.needs.nodes, task.needs.reach) == (2, Reach.HOST)
    assert value_of(task, "--node-rank") == "{rank}"
    assert value_of(task, "--nnodes") == "{nodes}"
    assert value_of(task, "--host") == "0.0.0.0"


@pytest.mark.parametrize(("rank", "others"), [("0", []), ("1", ["--headless"])])
def test_each_machine_fills_in_its_own_rank(tmp_path: Path, rank: str, others: list[str]) -> None:
    (tmp_path / "server.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    words = ["--node-rank", "{rank}", "--nnodes", "{nodes}", "--addr", "{leader}:7"]
    env = {"PENSTOCK_RANK": rank, "PENSTOCK_NODES": "2", "PENSTOCK_LEADER": "10.0.0.1"}
    ran = subprocess.run(
        [sys.executable, "-c", BOOT, "server", "--headless", *words],
        capture_output=True,
        check=True,
        env={**env, "PYTHONPATH": str(tmp_path), "PATH": os.defpath},
    )
    said = ["--node-rank", rank, "--nnodes", "2", "--addr", "10.0.0.1:7", *others]
    assert json.loads(ran.stdout) == said


def test_its_key_is_in_the_environment_and_nowhere_else(folder: Path) -> None:
    dialect = make_dialect("vllm", folder)
    task = dialect.launch("one").task
    secret = engine_key(KEY, "demo")
    assert dialect.headers == (("authorization", f"Bearer {secret}"),)
    assert task.env["VLLM_API_KEY"] == secret
    assert secret not in " ".join(task.argv)
    assert not make_dialect("vllm", folder, KEY="no").headers
    assert "VLLM_API_KEY" not in make_task("vllm", folder, KEY="no").env


def test_sglang_gets_no_key_because_it_would_write_it_into_its_log(folder: Path) -> None:
    dialect = make_dialect("sglang", folder)
    assert not dialect.headers
    task = dialect.launch("one").task
    assert engine_key(KEY, "demo") not in " ".join((*task.argv, *task.env.values()))


def test_the_next_agent_makes_the_same_task(folder: Path) -> None:
    assert make_task("vllm", folder, CARDS) == make_task("vllm", folder, CARDS)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_owners_wishes_become_flags(folder: Path, kind: str) -> None:
    plain = make_dialect(kind, folder)
    assert (plain.naps, plain.adapters) == (None, None)
    wishes = {
        "PENSTOCK_ENGINE_SLEEP": "1",
        "PENSTOCK_ENGINE_LORA_RANK": "16",
        "PENSTOCK_ENGINE_EXACT": "1",
        "PENSTOCK_ENGINE_EAGER": "1",
        "PENSTOCK_ENGINE_REACH": "host",
        f"PENSTOCK_{kind.upper()}_PYTHON": "/opt/engine/bin/python",
    }
    dialect = make_dialect(kind, folder, CARDS, **wishes)
    task = dialect.launch("one").task
    assert dialect.naps is not None
    assert dialect.adapters is not None
    assert task.argv[0] == "/opt/engine/bin/python"
    assert Path("/opt/engine") in task.readable
    assert value_of(task, "--max-lora-rank") == "16"
    assert task.needs.reach is Reach.HOST
    assert not [name for name in task.env if name.startswith("PENSTOCK_")]
    assert "HOME" not in task.env
    if kind == "vllm":
        assert {"--enable-sleep-mode", "--enforce-eager"} <= set(task.argv)
        assert task.env["VLLM_SERVER_DEV_MODE"] == task.env["VLLM_BATCH_INVARIANT"] == "1"
        assert task.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    else:
        assert {"--enable-memory-saver", "--enable-deterministic-inference"} <= set(task.argv)


def test_without_a_wish_the_control_routes_stay_shut(folder: Path) -> None:
    env = make_task("vllm", folder).env
    assert not {"VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"} & env.keys()


def test_no_order_can_name_a_control_route() -> None:
    passed = {*PATHS, NATIVE_PATH, TEMPLATE_PATH}
    assert not passed & set(CONTROL)


@pytest.mark.parametrize("kind", BUILDERS)
def test_sleep_and_adapters_are_asked_for_in_the_engines_words(folder: Path, kind: str) -> None:
    wishes = {"PENSTOCK_ENGINE_SLEEP": "1", "PENSTOCK_ENGINE_LORA_RANK": "8"}
    dialect = make_dialect(kind, folder, CARDS, **wishes)
    assert dialect.naps is not None
    assert dialect.adapters is not None
    light = [ask.path for ask in dialect.naps.suspend(Sleep.LIGHT)]
    woken = [ask.path for ask in dialect.naps.resume(Sleep.DEEP)]
    load = dialect.adapters.load("poet", Path("/w"))
    assert load.body == {"lora_name": "poet", "lora_path": "/w"}
    if kind == "vllm":
        assert light == ["/sleep?level=1&mode=wait"]
        assert woken == ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]
        assert load.path == "/v1/load_lora_adapter"
    else:
        assert light == ["/release_memory_occupation"]
        assert woken == ["/resume_memory_occupation"]
        assert load.path == "/load_lora_adapter"


@pytest.mark.parametrize(
    ("name", "value"), [("REACH", "everywhere"), ("LORA_RANK", "many"), ("CACHE_GIB", "")]
)
def test_a_wish_that_means_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(EngineFailed, match="engine_env cannot be used"):
        read_options("VLLM", {f"PENSTOCK_ENGINE_{name}": value})


def test_bigger_weights_may_start_longer(folder: Path) -> None:
    small = start_ms(folder)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(1 << 30)
    assert start_ms(folder) - small == 2 * (1 << 30) // 100_000
    assert make_dialect("vllm", folder).launch("one").start_ms == start_ms(folder)


@pytest.mark.parametrize("kind", BUILDERS)
async def test_a_folder_without_a_model_is_named(tmp_path: Path, kind: str) -> None:
    engine = build_engine(kind, f"file:{tmp_path}/none", LIMITS, world=make_world(tmp_path))
    with pytest.raises(EngineFailed, match="none"):
        await engine.start(deadline_ms=1_000)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_model_is_named_by_its_files(tmp_path: Path, kind: str) -> None:
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other", "<think>")
    assert model_digest(kind, f"file:{one}") != model_digest(kind, f"file:{other}")
    with pytest.raises(EngineFailed, match="not known here"):
        model_digest(kind, "hf:owner/repo@main")
    engine = build_engine(kind, "hf:owner/repo@main", LIMITS, world=make_world(tmp_path))
    assert engine.model == "repo"
