"""Moderation: our own head over MiniLM's vectors, in a worker of our own. A starter, not a guard."""

import hashlib
from pathlib import Path

from penstock.adapters.engines.minilm import minilm_gguf, weights_hex
from penstock.adapters.engines.minilm_engine import frame_fields
from penstock.adapters.engines.model_files import digest_hex, found
from penstock.adapters.engines.moderation_head import head_path
from penstock.adapters.engines.moderation_worker import ModerationSettings
from penstock.adapters.engines.worker_engine import Worker
from penstock.kit.engine import EngineLimits

SOURCE = "builtin:moderation"
MODEL = "moderation-mini"


def moderation_worker(limits: EngineLimits, *, home: Path) -> Worker:
    """A worker that judges texts."""

    def prepare() -> ModerationSettings:
        return ModerationSettings(
            head=str(found(head_path())),
            path=str(minilm_gguf(home / "models")),
            **frame_fields(MODEL, limits),
        )

    return Worker(
        title="Moderation",
        model=MODEL,
        module="penstock.adapters.engines.moderation_worker",
        prepare=prepare,
        remedy="Check that there is memory for it (200 MB), then start again.",
        env={"OMP_NUM_THREADS": str(limits.threads)},
    )


def model_hex() -> str:
    """The digest of both parts: MiniLM's weights and the head. Raises EngineFailed."""
    return hashlib.sha256(f"{weights_hex()}\n{digest_hex(found(head_path()))}".encode()).hexdigest()
