"""vLLM as a server of its own: how it is started, and its words for what all engines do.

The flags are those of vLLM 0.32. Its key guards `/v1` alone: it listens on the loopback, and the miner's
front passes none but the paths of orders (miner/paths.py).
"""

import json
from collections.abc import Callable
from pathlib import Path

from penstock.adapters.engines.dialect import Adapters, Ask, Dialect, Launch, Naps, start_ms
from penstock.adapters.engines.model_form import ModelForm, model_form
from penstock.adapters.engines.parsers import VLLM_REASONING, VLLM_TOOLS
from penstock.adapters.engines.ranks import command, host
from penstock.adapters.engines.server_options import (
    ServerGround,
    ServerOptions,
    engine_key,
    python_paths,
    read_options,
)
from penstock.kit.engine import EngineLimits, Sleep
from penstock.kit.runtime import Needs, Reach, Task
from penstock.spec.units import PPM

MODULE = "vllm.entrypoints.openai.api_server"
QUEUE_PER_SLOT = 4
LOGPROBS_MAX = 20
SHUTDOWN_S = 5
STOP_MS = 15_000
FILES_MAX = 65_536
MASTER_PORT = 29_551
STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}
REMEDY = (
    "Read the end of its log. Install it with pip install vllm where PENSTOCK_VLLM_PYTHON points "
    "(docs/engines.md)."
)
PATHS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v2/rerank"),
        *("/rerank", "/tokenize", "/detokenize", "/v1/audio/transcriptions"),
        *("/v1/audio/translations", "/health", "/metrics", "/v1/models"),
    }
)


def vllm_dialect(
    model: str,
    weights: Callable[[], Path],
    limits: EngineLimits,
    *,
    ground: ServerGround,
) -> Dialect:
    """`weights` finds the model's folder, as its task is made."""
    options = read_options("VLLM", ground.env)
    secret = engine_key(ground.key, model)

    def launch(name: str) -> Launch:
        folder = weights()
        form = model_form(folder)
        ground.cache.mkdir(parents=True, exist_ok=True)
        task = Task(
            name=name,
            argv=command(
                options.python,
                MODULE,
                (*words(model, folder, limits), *form_words(form, options, limits), *ways(limits)),
                limits=limits,
                others="--headless",
            ),
            env=environment(options, limits, secret=secret, cache=ground.cache),
            readable=(folder, folder.resolve(), *python_paths(options.python)),
            writable=(ground.cache,),
            needs=Needs(
                memory_bytes=limits.memory_bytes,
                gpus=len(limits.gpu_uuids),
                gpu_uuids=limits.gpu_uuids,
                nodes=limits.nodes,
                files_max=FILES_MAX,
                reach=options.reach if limits.nodes == 1 else Reach.HOST,
            ),
            stop_ms=STOP_MS,
        )
        return Launch(task, start_ms(folder))

    return Dialect(
        title="vLLM",
        model=model,
        launch=launch,
        remedy=REMEDY,
        headers=(("authorization", f"Bearer {secret}"),) if secret else (),
        naps=NAPS if options.can_sleep else None,
        adapters=ADAPTERS if options.lora_rank_max else None,
    )


def words(model: str, folder: Path, limits: EngineLimits) -> tuple[str, ...]:
    """What every start says."""
    return (
        *("--model", str(folder), "--served-model-name", model),
        *("--host", host(limits), "--port", "{port}"),
        *("--max-model-len", str(limits.context_tokens_max)),
        *("--max-num-seqs", str(limits.slots_max)),
        *("--max-num-queued-reqs", str(QUEUE_PER_SLOT * limits.slots_max)),
        *("--max-logprobs", str(LOGPROBS_MAX)),
        # The agent gates admission and waits itself; this bounds what is then still in work.
        *("--shutdown-timeout", str(SHUTDOWN_S)),
        "--disable-uvicorn-access-log",
    )


def form_words(form: ModelForm, options: ServerOptions, limits: EngineLimits) -> tuple[str, ...]:
    """What follows from the model and from what the owner wants."""
    said = ["--dtype", "float32" if form.dtype == "float32" and not limits.gpu_uuids else "auto"]
    if form.is_embedder:
        return (*said, "--runner", "pooling")
    said += ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    said += ["--structured-outputs-config", json.dumps(STRUCTURED)]
    if form.tool_format in VLLM_TOOLS:
        said += ["--enable-auto-tool-choice", "--tool-call-parser", VLLM_TOOLS[form.tool_format]]
    if form.reasoning_format in VLLM_REASONING:
        said += ["--reasoning-parser", VLLM_REASONING[form.reasoning_format]]
    if options.lora_rank_max:
        said += ["--enable-lora", "--max-lora-rank", str(options.lora_rank_max)]
    if options.can_sleep:
        said.append("--enable-sleep-mode")
    if options.is_eager:
        said.append("--enforce-eager")
    return tuple(said)


def ways(limits: EngineLimits) -> tuple[str, ...]:
    """How the model is spread: over the cards of a machine by tensors, over machines by layers."""
    said: tuple[str, ...] = ()
    if limits.gpu_uuids:
        share = f"{limits.gpu_share_ppm / PPM:.3f}"
        cards = str(len(limits.gpu_uuids))
        said = ("--gpu-memory-utilization", share, "--tensor-parallel-size", cards)
    if limits.nodes > 1:
        said += ("--pipeline-parallel-size", str(limits.nodes))
        said += ("--nnodes", "{nodes}", "--node-rank", "{rank}")
        said += ("--master-addr", "{leader}", "--master-port", str(MASTER_PORT))
    return said


def environment(
    options: ServerOptions, limits: EngineLimits, *, secret: str, cache: Path
) -> dict[str, str]:
    """The whole environment. The engine's key is here, because arguments are for everybody to read."""
    env = {
        **options.env,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "OMP_NUM_THREADS": str(limits.threads),
    }
    if secret:
        env["VLLM_API_KEY"] = secret
    if not limits.gpu_uuids:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(options.cache_gib)
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if options.can_sleep:
        env["VLLM_SERVER_DEV_MODE"] = "1"
    if options.lora_rank_max:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if options.is_exact:
        env["VLLM_BATCH_INVARIANT"] = "1"
    return env


NAPS = Naps(
    suspend=lambda level: (Ask(f"/sleep?level={level.value}&mode=wait"),),
    # From deep sleep the weights come from the disk again, into memory that is there already.
    resume=lambda level: (
        (Ask("/wake_up"),)
        if level is Sleep.LIGHT
        else (
            Ask("/wake_up?tags=weights"),
            Ask("/collective_rpc", {"method": "reload_weights"}),
            Ask("/wake_up?tags=kv_cache"),
        )
    ),
)
ADAPTERS = Adapters(
    load=lambda name, folder: Ask(
        "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}
    ),
    unload=lambda name: Ask("/v1/unload_lora_adapter", {"lora_name": name}),
)
