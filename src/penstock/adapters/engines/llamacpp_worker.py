"""The child process that runs llama.cpp's HTTP server: `python -m <this module>`.

It is a process of its own because the server is C++: a crash there must not take the miner along.
One JSON line on stdin sets it up (so nothing shows in the process list), one JSON line on stdout
says `{"address": ..., "version": ...}` or `{"error": ...}`, and everything else goes to stderr.
It lives as long as its stdin stays open: when the miner ends, even by kill -9, so does this. (While
a model loads, C++ lets no Python thread run; then ChildProcess's tether does the same on Linux.)
"""

import os
import resource
import sys
import threading
from typing import Any

import msgspec

LOG_ERRORS_ONLY = 1
LOG_BYTES_MAX = 16 << 20
LOG_SPARE_BYTES = 1 << 20
PROMPT_CACHE_MIB_MAX = 256
REQUEST_S_MAX = 3600


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parent writes on stdin. `context_tokens_max` is per request, not in total."""

    path: str
    model: str
    slots_max: int
    context_tokens_max: int
    threads: int
    embeddings: bool


class WorkerReady(msgspec.Struct, frozen=True):
    """The one line on stdout: `address` when it serves, `error` when it will not."""

    address: str = ""
    version: str = ""
    error: str = ""


def main() -> None:
    bound_log()
    report = take_stdout()
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSettings)
    try:
        server, version = open_server(settings)
    except (RuntimeError, ValueError, OSError) as error:
        say(report, WorkerReady(error=f"{settings.path}: {error}"))
        raise SystemExit(1) from error
    say(report, WorkerReady(address=server.listening_address, version=version))
    watch = threading.Thread(target=end_when_stdin_closes, daemon=True)
    watch.start()
    # SIGTERM keeps its default action: the kernel ends us at once, whatever C++ is doing.
    watch.join()


def bound_log() -> None:
    """Anybody's bad requests make log lines: past the bound, writing to any file just fails.

    The spare is for the next run, which rotates a log longer than LOG_BYTES_MAX before it starts.
    """
    bytes_max = LOG_BYTES_MAX + LOG_SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))


def take_stdout() -> int:
    """Keep stdout for our one line; what C++ prints there goes to stderr instead."""
    report = os.dup(1)
    os.dup2(2, 1)
    return report


def say(report: int, line: WorkerReady) -> None:
    os.write(report, msgspec.json.encode(line) + b"\n")
    os.close(report)


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
    params.cache_ram_mib = PROMPT_CACHE_MIB_MAX
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


def end_when_stdin_closes() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
