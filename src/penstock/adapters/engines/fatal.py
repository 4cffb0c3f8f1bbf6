"""What engines write when they cannot start, and what a person does about it.

Engines of several processes may hang for minutes after one of these lines, so a start is given up as
soon as a `sure` one is seen; the others only explain an end that came.
"""

import re
from dataclasses import dataclass

LINE_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Fatal:
    """A known line. `sure`: nothing good follows it."""

    line: re.Pattern[str]
    remedy: str
    sure: bool


def fatal(pattern: str, remedy: str, *, sure: bool = False) -> Fatal:
    return Fatal(re.compile(pattern), remedy, sure)


LESS_MEMORY = (
    "Serve it with a shorter context or fewer requests at once, give it more of the card, or take a "
    "quantised model."
)
KNOWN = (
    fatal(
        r"OutOfMemoryError|CUDA out of memory|HIP out of memory|CUBLAS_STATUS_ALLOC",
        LESS_MEMORY,
        sure=True,
    ),
    fatal(
        r"No available memory for the cache blocks|larger than the available KV cache memory|"
        r"Not enough memory. Please try to increase --mem-fraction-static|"
        r"Free memory on device .* is less than desired",
        LESS_MEMORY,
        sure=True,
    ),
    fatal(
        r"no kernel image is available|not compatible with the current PyTorch installation|"
        r"Minimum capability: |requires compute capability",
        "This build of the engine has no kernels for this card: install the one for it, or serve "
        "another quantisation.",
        sure=True,
    ),
    fatal(
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old|"
        r"CUDA error: system not yet initialized|NVML: Driver/library version mismatch",
        "Update the graphics driver (a restart of the machine ends a mismatch), then start again.",
        sure=True,
    ),
    fatal(
        r"does not appear to have a file named|No such file or directory: .*(config\.json|safetensors)|"
        r"is not a valid model identifier|SafetensorError|Error while deserializing header",
        "The model's files are not whole: remove them from the cache and let them be fetched again.",
    ),
    fatal(
        r"trust_remote_code",
        "The model wants to run code of its own, which no miner does. Serve a model that the engine knows.",
    ),
    fatal(
        r"Model architectures? .* (is|are) not supported|are not supported for now",
        "This version of the engine does not know the model: install a newer one.",
    ),
    fatal(
        r"No module named '?(xllamacpp|numpy|onnxruntime|gguf|safetensors|pocketsphinx|soundfile)\b",
        "Run `pip install 'penstock[miner]'` in the miner's environment.",
        sure=True,
    ),
    fatal(
        r"No module named '?(vllm|sglang|transformers|torch)",
        "Install the engine where the miner runs, and name its Python in the miner's engine_env "
        "(docs/engines.md).",
        sure=True,
    ),
    fatal(
        r"[Aa]ddress already in use", "Another program has the port: start again for another one."
    ),
    fatal(
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError",
        "The cards cannot talk to each other: run nvidia-smi topo -m, and try NCCL_P2P_DISABLE=1.",
    ),
    fatal(
        r"Engine core initialization failed|EngineCore failed to start|Scheduler hit an exception",
        "Read the lines before it: the engine says there what it lacks.",
        sure=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A known line in a log, as it stands there, and its meaning."""

    line: str
    meaning: Fatal


def find_fatal(log: str, *, sure_only: bool) -> Finding | None:
    """The first known line, in the order of the table: causes come before what they bring about."""
    for known in KNOWN:
        if sure_only and not known.sure:
            continue
        for line in log.splitlines():
            if known.line.search(line):
                return Finding(line.strip()[:LINE_CHARS_MAX], known)
    return None
