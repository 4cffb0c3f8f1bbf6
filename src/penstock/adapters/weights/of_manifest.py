"""The weights of a manifest, as a miner's instances need them: fetched, pinned while one uses them."""

from collections.abc import Callable

from penstock.adapters.weights.errors import ReferenceInvalid, WeightsError
from penstock.adapters.weights.fetch import Weights
from penstock.adapters.weights.progress import Progress
from penstock.adapters.weights.reference import is_fetched
from penstock.kit.engine import EngineFailed
from penstock.spec.messages import Manifest
from penstock.spec.weights import is_sha256

MIB_SHIFT = 20
ATTACHED = "openai-http"
"""The source of such a chute is a server, which has weights of its own."""


def is_cached(manifest: Manifest) -> bool:
    """Do its weights come over the network into the cache?"""
    return manifest.engine != ATTACHED and is_fetched(manifest.source)


class ManifestWeights:
    """Implements `miner.weights.Weights` over one cache."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    async def pull(self, manifest: Manifest, *, instance: str, say: Callable[[str], None]) -> None:
        """What comes with an engine, or is a file of this machine, is looked up by the engine itself."""
        if not is_cached(manifest):
            return
        try:
            await self._weights.fetch(
                manifest.source,
                manifest.model_digest,
                on_progress=lambda progress: say(words_of(progress)),
                holder=instance,
            )
        except WeightsError as error:
            is_chutes_fault = isinstance(error, ReferenceInvalid)
            raise EngineFailed(
                reason=str(error),
                log_tail="",
                remedy="" if is_chutes_fault else "It is tried again after a wait.",
            ) from error

    def size_bytes(self, manifest: Manifest) -> int:
        """Known once the cache has heard of the model; its name in the manifest is the digest."""
        if not is_cached(manifest) or not is_sha256(manifest.model_digest):
            return 0
        record = self._weights.store.record(manifest.model_digest)
        return 0 if record is None else record.model.size_bytes

    def drop(self, manifest: Manifest, *, instance: str) -> None:
        """Let go of what `pull` kept, also in a former life of the agent."""
        if is_cached(manifest) and is_sha256(manifest.model_digest):
            self._weights.store.unpin(manifest.model_digest, instance)


def words_of(progress: Progress) -> str:
    """How far a fetch is, for people."""
    if progress.waits:
        return "waiting for another process that fetches the same weights"
    done, total = (count >> MIB_SHIFT for count in (progress.done_bytes, progress.total_bytes))
    rate = progress.rate_bytes_s >> MIB_SHIFT
    return f"fetching {progress.file}: {done} of {total} MiB, {rate} MiB/s from {progress.source}"
