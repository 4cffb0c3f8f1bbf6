"""transformers in a worker of our own: for models that llama.cpp, vLLM and SGLang do not know.

Its own server (`transformers serve`) takes `logprobs`, `response_format`, `n` and `temperature` and
drops them without a word, so it is not used.
"""

from collections.abc import Callable
from pathlib import Path

from penstock.adapters.engines.images import check_packages
from penstock.adapters.engines.transformers_settings import TransformersSettings
from penstock.adapters.engines.worker_engine import Worker
from penstock.kit.engine import EngineLimits

PACKAGES = ("torch", "transformers")
QUEUE_PER_SLOT = 4


def transformers_worker(model: str, limits: EngineLimits, *, weights: Callable[[], Path]) -> Worker:
    """`weights` finds the model's folder."""

    def prepare() -> TransformersSettings:
        check_packages(PACKAGES)
        return TransformersSettings(
            model=model,
            slots_max=limits.slots_max,
            queue_max=QUEUE_PER_SLOT * limits.slots_max,
            threads=limits.threads,
            folder=str(weights()),
            context_tokens_max=limits.context_tokens_max,
        )

    return Worker(
        title="transformers",
        model=model,
        module="penstock.adapters.engines.transformers_worker",
        prepare=prepare,
        remedy="Check that the folder is a whole model in safetensors that fits into memory.",
        env={"OMP_NUM_THREADS": str(limits.threads), "HF_HUB_OFFLINE": "1"},
        gpu_uuids=limits.gpu_uuids,
    )
