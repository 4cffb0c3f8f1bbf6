"""llama.cpp as our own child process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.engines.llamacpp_worker import WorkerSettings
from penstock.adapters.engines.worker_engine import Worker, WorkerEngine
from penstock.kit.engine import EngineLimits
from penstock.kit.ports import Network
from penstock.kit.runtime import Runtime


@dataclass(frozen=True, slots=True)
class LlamaModel:
    """What to serve: its name in requests, how to find (or make) the GGUF, and for what.

    `locate` may take seconds and runs in a thread; it raises EngineFailed.
    """

    name: str
    locate: Callable[[], Path]
    embeddings: bool


class LlamaCpp(WorkerEngine):
    """Implements `kit.engine.Engine` over llama.cpp's own server in a worker."""

    def __init__(
        self,
        model: LlamaModel,
        limits: EngineLimits,
        *,
        runtime: Runtime,
        network: Network,
        env: Mapping[str, str],
        name: str = "",
    ) -> None:
        def prepare() -> WorkerSettings:
            return WorkerSettings(
                path=str(model.locate()),
                model=model.name,
                slots_max=limits.slots_max,
                context_tokens_max=limits.context_tokens_max,
                threads=limits.threads,
                embeddings=model.embeddings,
            )

        worker = Worker(
            title="llama.cpp",
            model=model.name,
            module="penstock.adapters.engines.llamacpp_worker",
            prepare=prepare,
            remedy="Check that the model is a GGUF file that fits into memory, then start again.",
            env={"OMP_NUM_THREADS": str(limits.threads)},
            is_llama=True,
            gpu_uuids=limits.gpu_uuids,
        )
        super().__init__(worker, runtime=runtime, network=network, env=env, name=name)
