"""SGLang as a server of its own: how it is started, and its words for what all engines do.

The flags are those of SGLang 0.5. It writes its arguments into its log, so it is given no key: it listens
on the loopback, and the miner's front passes none but the paths of orders (miner/paths.py).
"""

from collections.abc import Callable
from pathlib import Path

from penstock.adapters.engines.dialect import Adapters, Ask, Dialect, Launch, Naps, start_ms
from penstock.adapters.engines.model_form import ModelForm, model_form
from penstock.adapters.engines.parsers import SGLANG_REASONING, SGLANG_TOOLS
from penstock.adapters.engines.ranks import command, host
from penstock.adapters.engines.server_options import (
    ServerGround,
    ServerOptions,
    python_paths,
    read_options,
)
from penstock.kit.engine import EngineLimits
from penstock.kit.runtime import Needs, Reach, Task
from penstock.spec.units import PPM

MODULE = "sglang.launch_server"
QUEUE_PER_SLOT = 4
STOP_MS = 15_000
FILES_MAX = 65_536
DIST_PORT = 29_552
REMEDY = (
    "Read the end of its log. Install it with pip install sglang where PENSTOCK_SGLANG_PYTHON points; "
    "it needs a graphics card (docs/engines.md)."
)


def sglang_dialect(
    model: str,
    weights: Callable[[], Path],
    limits: EngineLimits,
    *,
    ground: ServerGround,
) -> Dialect:
    """As `vllm_dialect`."""
    options = read_options("SGLANG", ground.env)

    def launch(name: str) -> Launch:
        folder = weights()
        form = model_form(folder)
        ground.cache.mkdir(parents=True, exist_ok=True)
        task = Task(
            name=name,
            argv=command(
                options.python,
                MODULE,
                (*words(model, folder, limits), *form_words(form, options), *ways(limits)),
                limits=limits,
            ),
            env=environment(options, limits, cache=ground.cache),
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
        title="SGLang",
        model=model,
        launch=launch,
        remedy=REMEDY,
        naps=NAPS if options.can_sleep else None,
        adapters=ADAPTERS if options.lora_rank_max else None,
    )


def words(model: str, folder: Path, limits: EngineLimits) -> tuple[str, ...]:
    """What every start says."""
    return (
        *("--model-path", str(folder), "--served-model-name", model),
        *("--host", host(limits), "--port", "{port}"),
        *("--context-length", str(limits.context_tokens_max)),
        *("--max-running-requests", str(limits.slots_max)),
        *("--max-queued-requests", str(QUEUE_PER_SLOT * limits.slots_max)),
        *("--log-level", "warning"),
        "--enable-metrics",
        "--enable-cache-report",
    )


def form_words(form: ModelForm, options: ServerOptions) -> tuple[str, ...]:
    """What follows from the model and from what the owner wants."""
    if form.is_embedder:
        return ("--is-embedding",)
    said: list[str] = []
    if form.tool_format in SGLANG_TOOLS:
        said += ["--tool-call-parser", SGLANG_TOOLS[form.tool_format]]
    if form.reasoning_format in SGLANG_REASONING:
        said += ["--reasoning-parser", SGLANG_REASONING[form.reasoning_format]]
    if options.lora_rank_max:
        said += ["--enable-lora", "--max-lora-rank", str(options.lora_rank_max)]
        said += ["--lora-target-modules", "all"]
    if options.can_sleep:
        said += ["--enable-memory-saver", "--enable-weights-cpu-backup"]
    if options.is_exact:
        said.append("--enable-deterministic-inference")
    if options.is_eager:
        said.append("--disable-cuda-graph")
    return tuple(said)


def ways(limits: EngineLimits) -> tuple[str, ...]:
    """How the model is spread: over the cards of a machine by tensors, over machines by layers."""
    said: tuple[str, ...] = ()
    if limits.gpu_uuids:
        share = f"{limits.gpu_share_ppm / PPM:.3f}"
        said = ("--mem-fraction-static", share, "--tp-size", str(len(limits.gpu_uuids)))
    else:
        said = ("--device", "cpu")
    if limits.nodes > 1:
        said += ("--pp-size", str(limits.nodes), "--nnodes", "{nodes}", "--node-rank", "{rank}")
        said += ("--dist-init-addr", "{leader}:" + str(DIST_PORT))
    return said


def environment(options: ServerOptions, limits: EngineLimits, *, cache: Path) -> dict[str, str]:
    return {
        **options.env,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "XDG_CACHE_HOME": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "OMP_NUM_THREADS": str(limits.threads),
    }


NAPS = Naps(
    suspend=lambda _: (Ask("/release_memory_occupation", {"tags": ["kv_cache", "weights"]}),),
    resume=lambda _: (Ask("/resume_memory_occupation", {"tags": ["weights", "kv_cache"]}),),
)
"""Its weights wait in the machine's memory at either depth."""
ADAPTERS = Adapters(
    load=lambda name, folder: Ask(
        "/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}
    ),
    unload=lambda name: Ask("/unload_lora_adapter", {"lora_name": name}),
)
