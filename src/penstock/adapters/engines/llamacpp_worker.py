"""The child process that runs llama.cpp's HTTP server: `python -m <this module>`.

It is a process of its own because the server is C++: a crash there must not take the miner along.
How it talks with its parent: worker_pipe.py.
"""

import signal
from typing import Any

import msgspec

from penstock.adapters.engines.worker_pipe import Parent

LOG_ERRORS_ONLY = 1
REQUEST_S_MAX = 3600


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parent writes on stdin. `context_tokens_max` is per request, not in total."""

    path: str
    model: str
    slots_max: int
    context_tokens_max: int
    threads: int
    embeddings: bool
    tethered: bool = True


def main() -> None:
    parent = Parent()
    settings = parent.settings(WorkerSettings)
    try:
        server, version = open_server(settings)
    except (RuntimeError, ValueError, OSError) as error:
        parent.failed(f"{settings.path}: {error}")
    parent.serving(server.listening_address, version=version)
    if settings.tethered:
        parent.tie()
    # SIGTERM keeps its default action: the kernel ends us at once, whatever C++ is doing.
    signal.pause()


def open_server(settings: WorkerSettings) -> tuple[Any, str]:
    """Load the model and listen on a free loopback port; returns (server, package version)."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.path
    params.model_alias = {settings.model}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = settings.slots_max
    params.n_ctx = settings.context_tokens_max * settings.slots_max
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_threads_http = settings.slots_max + 4
    params.timeout_read = params.timeout_write = REQUEST_S_MAX
    # This cache is searched for every request, whoever made the prompts in it; a slot's own is not.
    params.cache_ram_mib = 0
    params.cors_origins = "http://127.0.0.1"
    params.verbosity = LOG_ERRORS_ONLY
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.use_jinja = True
    params.offline = True
    params.ui = False
    if settings.embeddings:
        params.embedding = True
        # A text to embed is one batch: it must fit whole, or the server refuses it.
        params.n_batch = params.n_ubatch = params.n_ctx
    return xllamacpp.Server(params), xllamacpp.__version__


if __name__ == "__main__":
    main()
