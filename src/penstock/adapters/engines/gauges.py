"""How busy an engine is, read from its Prometheus page: each engine has names of its own.

The names are those of vLLM 0.32, SGLang 0.5 (both spellings), TensorRT-LLM and llama.cpp.
"""

from dataclasses import dataclass

RUNNING = frozenset(
    {
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "sglang_num_running_reqs",
        "trtllm_num_requests_running",
        "llamacpp:requests_processing",
        "penstock_echo_running",
        "penstock_engine_running",
    }
)
WAITING = frozenset(
    {
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "sglang_num_queue_reqs",
        "trtllm_num_requests_waiting",
        "llamacpp:requests_deferred",
        "penstock_echo_waiting",
        "penstock_engine_waiting",
    }
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests in work and in the engine's own queue, summed over its ranks."""

    running: int
    waiting: int


def parse_gauges(page: str) -> Gauges:
    """Sum the samples we know; a page without any of them reads as idle. Never raises."""
    running = waiting = 0
    for line in page.splitlines():
        name, value = split_sample(line)
        if name in RUNNING:
            running += value
        elif name in WAITING:
            waiting += value
    return Gauges(running, waiting)


def split_sample(line: str) -> tuple[str, int]:
    """`name{labels} value [time]` -> (name, whole value); ("", 0) for anything else."""
    if line.startswith("#"):
        return "", 0
    name, brace, rest = line.partition("{")
    values = rest.rpartition("}")[2].split() if brace else line.split()[1:]
    try:
        return name.split(" ", 1)[0], int(float(values[0]))
    except (IndexError, ValueError, OverflowError):
        return "", 0
