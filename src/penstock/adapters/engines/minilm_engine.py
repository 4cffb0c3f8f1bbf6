"""Embeddings and rerank: all-MiniLM-L6-v2 in a worker of our own."""

from pathlib import Path
from typing import Any

from penstock.adapters.engines.minilm import MODEL, minilm_gguf
from penstock.adapters.engines.minilm_vectors import MiniLmSettings
from penstock.adapters.engines.worker_engine import Worker
from penstock.kit.engine import EngineLimits

QUEUE_PER_SLOT = 16


def minilm_worker(limits: EngineLimits, *, home: Path) -> Worker:
    """A worker that embeds and ranks. The model is converted at the first start."""

    def prepare() -> MiniLmSettings:
        return MiniLmSettings(path=str(minilm_gguf(home / "models")), **frame_fields(MODEL, limits))

    return Worker(
        title="MiniLM",
        model=MODEL,
        module="penstock.adapters.engines.minilm_worker",
        prepare=prepare,
        remedy="Check that there is memory for it (200 MB), then start again.",
        env={"OMP_NUM_THREADS": str(limits.threads)},
    )


def frame_fields(model: str, limits: EngineLimits) -> dict[str, Any]:
    """What the frame of a worker over MiniLM is told."""
    return {
        "model": model,
        "slots_max": limits.slots_max,
        "queue_max": QUEUE_PER_SLOT * limits.slots_max,
        "threads": limits.threads,
    }
