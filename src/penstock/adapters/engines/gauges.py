"""How busy an engine is, read from its Prometheus page: each engine has names of its own.

The names are those of vLLM 0.32, SGLang 0.5 (both spellings), TensorRT-LLM and llama.cpp. Ranks of one
engine are summed; of how full their caches are, the fullest counts.
"""

from dataclasses import asdict, dataclass

from penstock.kit.engine import EngineStats

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
KV_USED = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "sglang_token_usage",
        "trtllm_kv_cache_utilization",
    }
)
"""From 0 to 1. vLLM renamed its own in 0.10."""
PROMPT = frozenset(
    {
        "vllm:prompt_tokens_total",
        "sglang:prompt_tokens_total",
        "sglang_prompt_tokens_total",
        "llamacpp:prompt_tokens_total",
    }
)
CACHED = frozenset(
    {
        "vllm:prompt_tokens_cached_total",
        "sglang:cached_tokens_total",
        "sglang_cached_tokens_total",
        "llamacpp:prompt_tokens_cached_total",
    }
)
GENERATED = frozenset(
    {
        "vllm:generation_tokens_total",
        "sglang:generation_tokens_total",
        "sglang_generation_tokens_total",
        "llamacpp:tokens_predicted_total",
    }
)
PREEMPTED = frozenset(
    {
        "vllm:num_preemptions_total",
        "sglang:num_retractions_total",
        "sglang_num_retractions_total",
    }
)
UNCACHED = frozenset({"llamacpp:prompt_tokens_total"})
"""Totals of the prompts' tokens without those that were found in the cache."""
WORKED = "penstock_engine_units_total"
WORKED_FIELDS = {
    'unit="prompt_tokens"': "prompt_tokens",
    'unit="completion_tokens"': "generated_tokens",
}
"""Our own workers tell every unit under one name."""
ASLEEP = "vllm:engine_sleep_state"
AWAKE_STATE = 'sleep_state="awake"'
PPM = 1_000_000
COUNT_MAX = 2**53 - 1

COUNTS = {
    **dict.fromkeys(RUNNING, "running"),
    **dict.fromkeys(WAITING, "waiting"),
    **dict.fromkeys(PROMPT, "prompt_tokens"),
    **dict.fromkeys(CACHED, "cached_tokens"),
    **dict.fromkeys(GENERATED, "generated_tokens"),
    **dict.fromkeys(PREEMPTED, "preempted"),
}


@dataclass(slots=True)
class Gauges:
    """The fields of `kit.engine.EngineStats` that a page tells, by their names there."""

    running: int = 0
    waiting: int = 0
    kv_used_ppm: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preempted: int = 0
    is_suspended: bool = False


def parse_gauges(page: str) -> Gauges:
    """Sum the samples we know; a page without any of them reads as idle. Never raises."""
    gauges = Gauges()
    is_uncached = False
    for line in page.splitlines():
        name, value = split_value(line)
        field = COUNTS.get(name)
        if name == WORKED:
            field = next((one for label, one in WORKED_FIELDS.items() if label in line), None)
        if field is not None:
            is_uncached = is_uncached or name in UNCACHED
            setattr(gauges, field, min(getattr(gauges, field) + max(int(value), 0), COUNT_MAX))
        elif name in KV_USED:
            used_ppm = min(max(round(value * PPM), 0), PPM)
            gauges.kv_used_ppm = max(gauges.kv_used_ppm, used_ppm)
        elif name == ASLEEP and AWAKE_STATE in line:
            gauges.is_suspended = gauges.is_suspended or not value
    if is_uncached:
        gauges.prompt_tokens += gauges.cached_tokens
    return gauges


def engine_stats(page: str, *, ready: bool) -> EngineStats:
    """What a page tells, in the port's words."""
    return EngineStats(ready=ready, **asdict(parse_gauges(page)))


def split_sample(line: str) -> tuple[str, int]:
    """`name{labels} value [time]` -> (name, whole value); ("", 0) for anything else."""
    name, value = split_value(line)
    return name, int(value)


def split_value(line: str) -> tuple[str, float]:
    """As `split_sample`, with the value as it is written; no infinity and no NaN."""
    if line.startswith("#"):
        return "", 0
    name, brace, rest = line.partition("{")
    values = rest.rpartition("}")[2].split() if brace else line.split()[1:]
    try:
        value = float(values[0])
        int(value)
        return name.split(" ", 1)[0], value
    except (IndexError, ValueError, OverflowError):
        return "", 0
