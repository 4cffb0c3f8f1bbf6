"""Prometheus pages as engines really write them: what is read of them, and what is not mistaken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.gauges import (
    RUNNING,
    WAITING,
    Gauges,
    engine_stats,
    parse_gauges,
    split_sample,
)
from penstock.kit.engine import EngineStats

VLLM = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 10526.0
# HELP process_resident_memory_bytes Resident memory size in bytes.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 7.36923648e+09
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 17.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 5.0
# HELP vllm:gpu_cache_usage_perc GPU KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.4375
# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 212.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 212.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 41.88
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 208.0
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",is_attention_free="False"} 1.0
"""

SGLANG = """\
# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="qwen/Qwen3-4B"} 8.128902e+06
# HELP sglang:num_running_reqs The number of running requests
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="qwen/Qwen3-4B",pp_rank="0",tp_rank="0"} 162.0
sglang:num_running_reqs{engine_type="unified",model_name="qwen/Qwen3-4B",pp_rank="0",tp_rank="1"} 0.0
# HELP sglang:num_used_tokens The number of used tokens
# TYPE sglang:num_used_tokens gauge
sglang:num_used_tokens{model_name="qwen/Qwen3-4B"} 123859.0
# HELP sglang:gen_throughput The generate throughput (token/s)
# TYPE sglang:gen_throughput gauge
sglang:gen_throughput{model_name="qwen/Qwen3-4B"} 86.50814177726902
# HELP sglang:num_queue_reqs The number of requests in the waiting queue
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="qwen/Qwen3-4B"} 2826.0
# HELP sglang:cache_hit_rate The cache hit rate
# TYPE sglang:cache_hit_rate gauge
sglang:cache_hit_rate{model_name="qwen/Qwen3-4B"} 0.007507552643049313
"""

LLAMA_CPP = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 128
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 1
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call
# TYPE llamacpp:n_busy_slots_per_decode counter
llamacpp:n_busy_slots_per_decode 2.75
"""


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (VLLM, Gauges(running=17, waiting=5, kv_used_ppm=437_500, preempted=3)),
        (SGLANG, Gauges(running=162, waiting=2826, prompt_tokens=8_128_902)),
        (LLAMA_CPP, Gauges(running=3, waiting=1, prompt_tokens=128)),
    ],
    ids=["vllm", "sglang", "llama.cpp"],
)
def test_a_real_page_is_read_by_the_names_of_its_engine(page: str, expected: Gauges) -> None:
    assert parse_gauges(page) == expected
    assert parse_gauges(page.replace("\n", "\r\n")) == expected


def test_llama_cpp_counts_what_it_found_apart_from_what_it_read() -> None:
    page = "llamacpp:prompt_tokens_total 128\nllamacpp:prompt_tokens_cached_total 60\n"
    found = parse_gauges(page + "llamacpp:tokens_predicted_total 7\n")
    assert (found.prompt_tokens, found.cached_tokens, found.generated_tokens) == (188, 60, 7)
    told = parse_gauges("vllm:prompt_tokens_total 128\nvllm:prompt_tokens_cached_total 60\n")
    assert (told.prompt_tokens, told.cached_tokens) == (128, 60)


def test_our_own_workers_tell_tokens_among_their_units() -> None:
    page = "".join(
        f'penstock_engine_units_total{{unit="{unit}"}} {count}\n'
        for unit, count in (("prompt_tokens", 9), ("completion_tokens", 4), ("audio_ms", 700))
    )
    assert parse_gauges(page) == Gauges(prompt_tokens=9, generated_tokens=4)


def test_the_fullest_rank_counts_and_no_cache_is_fuller_than_full() -> None:
    page = "".join(
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} {used}\n'
        for rank, used in enumerate(("0.25", "0.5", "0.125"))
    )
    assert parse_gauges(page).kv_used_ppm == 500_000
    assert parse_gauges("sglang:token_usage 1.5").kv_used_ppm == 1_000_000
    assert parse_gauges("sglang_token_usage -3").kv_used_ppm == 0


@pytest.mark.parametrize(
    ("awake", "is_suspended"), [("1.0", False), ("0.0", True)], ids=["awake", "asleep"]
)
def test_vllm_tells_whether_it_sleeps(awake: str, is_suspended: bool) -> None:
    page = (
        f'vllm:engine_sleep_state{{engine="0",sleep_state="awake"}} {awake}\n'
        'vllm:engine_sleep_state{engine="0",sleep_state="weights_offloaded"} 0.0\n'
    )
    assert parse_gauges(page).is_suspended is is_suspended


def test_every_field_of_the_page_reaches_the_port() -> None:
    page = VLLM + "vllm:prompt_tokens_total 5\nvllm:generation_tokens_total 6\n"
    stats = engine_stats(page, ready=True)
    assert stats == EngineStats(
        17, 5, ready=True, kv_used_ppm=437_500, preempted=3, prompt_tokens=5, generated_tokens=6
    )


@pytest.mark.parametrize("page", ["vllm:prompt_tokens_total -5", "vllm:prompt_tokens_total 1e300"])
def test_a_count_stays_within_what_can_be_counted(page: str) -> None:
    assert 0 <= parse_gauges(page).prompt_tokens <= 2**53 - 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('vllm:num_requests_running{a="1"} 2', ("vllm:num_requests_running", 2)),
        ('vllm:num_requests_running{a="1"} 2 1700000000123', ("vllm:num_requests_running", 2)),
        ('vllm:num_requests_running{a="1"}2', ("vllm:num_requests_running", 2)),
        ("vllm:num_requests_running 2.0", ("vllm:num_requests_running", 2)),
        ("vllm:num_requests_running 2e1", ("vllm:num_requests_running", 20)),
        ('vllm:num_requests_running {a="1"} 2', ("vllm:num_requests_running", 2)),
        ('vllm:num_requests_running{a="}{",b=" 9 "} 2', ("vllm:num_requests_running", 2)),
        ('vllm:num_requests_running{a="\\"} 7"} 2', ("vllm:num_requests_running", 2)),
        ("vllm:num_requests_running", ("", 0)),
        ("vllm:num_requests_running{", ("", 0)),
        ("vllm:num_requests_running{a=1} two", ("", 0)),
        ("vllm:num_requests_running Inf", ("", 0)),
        ("vllm:num_requests_running -Inf", ("", 0)),
        ("vllm:num_requests_running NaN", ("", 0)),
        ("# vllm:num_requests_running 2", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_a_line_is_a_name_and_a_whole_value_or_nothing(
    line: str, expected: tuple[str, int]
) -> None:
    assert split_sample(line) == expected


@pytest.mark.parametrize("name", sorted(RUNNING | WAITING))
def test_a_name_that_only_begins_or_ends_alike_is_another_name(name: str) -> None:
    for other in (f"{name}_total", f"x{name}", name.upper(), name[:-1]):
        assert parse_gauges(f"{other} 5") == Gauges(0, 0)
    assert sum((parse_gauges(f"{name} 5").running, parse_gauges(f"{name} 5").waiting)) == 5


@given(st.text(max_size=300))
def test_no_page_whatever_is_an_error(page: str) -> None:
    found = parse_gauges(page)
    assert isinstance(found.running, int)
    assert isinstance(found.waiting, int)


@given(st.lists(st.integers(0, 10_000), max_size=20), st.randoms(use_true_random=False))
def test_the_order_and_number_of_ranks_do_not_matter(counts: list[int], chance: object) -> None:
    lines = [f'sglang:num_queue_reqs{{dp="{n}"}} {float(one)}' for n, one in enumerate(counts)]
    assert parse_gauges("\n".join(reversed(lines))) == Gauges(0, sum(counts))
