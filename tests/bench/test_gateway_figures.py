"""From samples to figures, ratios, goals and tables; and what is read from /proc and from profiles."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench.gateway import results
from bench.gateway.__main__ import ALL, main
from bench.gateway.cast import BODY_BYTES, request
from bench.gateway.measure import Plan, Sample, steps
from bench.gateway.meters import cpu_of, pss_kib, read_pss, tree, wait_quiet
from bench.gateway.plot import draw, read_samples
from bench.gateway.processes import Cores
from bench.gateway.profiling import Profile, shares
from bench.gateway.profiling import table as profile_table
from bench.gateway.progress import Progress
from bench.gateway.report import describe, faults, processor
from bench.gateway.results import CHUNK, DELAY, KEEPUP, MEMORY, REQUEST
from bench.gateway.workloads import Seen, paced

NOTHING = Seen(**dict.fromkeys(Seen.__struct_fields__[:-1], 0), first_error="")


def sample(target: str, workload: str, *, cpu_ms: float, repeat: int = 0, **fields: Any) -> Sample:
    stream_kib = fields.pop("stream_kib", None)
    seen = msgspec.structs.replace(NOTHING, **fields)
    return Sample(target, workload, repeat, seen, cpu_ms, stream_kib)


def run(cpu: dict[str, float]) -> list[Sample]:
    """A run in which a target's figures are so many times a round number."""
    samples = []
    for target, times in cpu.items():
        samples += [
            sample(target, "chat", cpu_ms=10 * times, requests=1000, wall_us=1_000_000),
            sample(target, "fast", cpu_ms=2 * times, chunks=1000, reads=500),
            sample(
                target,
                "paced",
                cpu_ms=20 * times,
                requests=500,
                chunks=1000,
                steady_chunks=995,
                steady_due=1000,
                delay_p99_us=int(100 + 1000 * times),
                stream_kib=int(5000 * times),
            ),
        ]
    return samples


PEERS = {"direct": 0.0, "nginx": 1.0, "sglang-router": 4.0, "litellm": 500.0}


def test_metrics_are_per_request_per_chunk_and_per_stream() -> None:
    found = results.values(run({"direct": 0.0, "nginx": 1.0}))
    measured = {metric: found["nginx", metric] for metric in (REQUEST, CHUNK, KEEPUP, MEMORY)}
    assert measured == {REQUEST: [0.01], CHUNK: [2.0], KEEPUP: [0.995], MEMORY: [10.0]}
    assert found["nginx", "requests_per_s"] == [1000]
    assert found["nginx", "chunks_per_read"] == [2]


def test_a_delay_is_what_the_target_adds_to_no_gateway_at_all() -> None:
    found = results.values(run({"direct": 0.0, "nginx": 1.0}))
    assert found["nginx", DELAY] == [1000]
    assert found["direct", DELAY] == [100]


def test_repetitions_become_a_median_and_errors_a_sum() -> None:
    samples = [
        sample("nginx", "chat", cpu_ms=cpu_ms, repeat=n, requests=1000, errors=1)
        for n, cpu_ms in enumerate((30, 10, 20))
    ]
    found = results.values(samples)
    assert results.middle(found, "nginx", REQUEST) == 0.02
    assert results.middle(found, "nginx", "errors") == 3
    assert results.middle(found, "haproxy", REQUEST) is None


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (1.5, set()),
        (1.7, {"CPU per chunk <= 1.6 x nginx's"}),
        (
            3.5,
            {
                "CPU per request <= 0.8 x sglang-router's",
                "CPU per chunk <= 1.6 x nginx's",
                "CPU per chunk <= 0.5 x sglang-router's",
                "p99 of the added delay, 500 paced streams <= 2 x nginx's",
            },
        ),
    ],
)
def test_goals_are_met_or_missed_by_the_ratios_of_the_run(ours: float, missed: set[str]) -> None:
    goals = results.goals(results.values(run({**PEERS, "penstock": ours})))
    assert len(goals) == 8
    assert {one.text for one in goals if not one.is_met} == missed
    lines = results.goals_table(goals).splitlines()
    assert sum(line.endswith("| missed |") for line in lines) == len(missed)


def test_a_goal_whose_peer_was_skipped_is_not_claimed() -> None:
    goals = results.goals(results.values(run({"direct": 0, "nginx": 1, "penstock": 1})))
    assert [one.text for one in goals if "sglang" in one.text or "LiteLLM" in one.text] == []
    assert results.goals(results.values(run({"direct": 0.0, "nginx": 1.0}))) == []


def test_figures_hold_the_promised_targets_and_metrics_and_the_ratios() -> None:
    rows = results.figures(results.values(run({**PEERS, "penstock": 2.0})))
    told = {(one.target, one.metric): one.value for one in rows}
    for target in ("nginx", "sglang-router", "litellm", "penstock"):
        assert {metric for name, metric in told if name == target} >= {
            *(REQUEST, CHUNK, KEEPUP, DELAY, MEMORY)
        }
    assert told["penstock", f"{CHUNK} / nginx"] == 2
    assert told["penstock", f"{REQUEST} / sglang-router"] == 0.5


def test_the_table_has_a_row_a_target_with_ratios_and_spread() -> None:
    samples = run({"nginx": 1.0, "penstock": 2.0})
    samples.append(sample("penstock", "chat", cpu_ms=40, repeat=1, requests=1000))
    lines = results.table(results.values(samples)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in cells[2:]] == ["nginx", "penstock"]
    assert cells[3][1:4] == ["0.03 (0.02-0.04)", "3.00", ""]
    assert len({len(line) for line in lines}) == 1


def test_memory_is_the_sum_of_pss_over_the_tree() -> None:
    text = "55f-7ff ---p 0 00:00 0 [rollup]\nRss: 900 kB\nPss:                 319 kB\nPss_Dirty: 1 kB\n"
    assert read_pss(text) == 319
    assert read_pss("nothing") == 0
    assert tree(os.getpid())[0] == os.getpid()
    assert pss_kib([os.getpid()]) > 1000
    assert cpu_of([os.getpid()]) > 0


def ticking(*counts: float) -> Callable[[], float]:
    """A CPU count that goes on so, and then stays."""
    rest = list(counts)
    return lambda: rest.pop(0) if len(rest) > 1 else rest[0]


def test_a_gateway_is_quiet_once_its_cpu_count_rests() -> None:
    slept: list[float] = []
    assert wait_quiet(ticking(0, 400, 600, 605), deadline_s=10, sleep=slept.append)
    assert len(slept) == 3
    busy = ticking(*range(0, 100_000, 400))
    assert not wait_quiet(busy, deadline_s=2, sleep=slept.append)


@pytest.mark.parametrize(("chunks", "interval_us"), [(0, 0), (256, 0), (400, 20_000)])
def test_every_request_has_the_same_size_and_says_what_it_wants(
    chunks: int, interval_us: int
) -> None:
    data = request(80, api_key="sk-bench", chunks=chunks, interval_us=interval_us)
    head, _, body = data.partition(b"\r\n\r\n")
    assert len(body) == BODY_BYTES
    assert f"content-length: {BODY_BYTES}" in head.decode()
    told = json.loads(body)
    assert told["stream"] is bool(chunks)
    assert (f"bench:{chunks}:{interval_us};" in told["messages"][0]["content"]) is bool(chunks)


def test_paced_streams_outlast_the_time_in_which_they_are_counted() -> None:
    one = paced(4, streams=500)
    assert one.is_paced
    assert one.chunks * one.interval_us > 5_300_000
    assert one.words().count("steady_ms=4000") == 1


GOOD = {"records": 900, "bad": 0, "judged": 90, "first_bad": "", "decided": 90}
SERVED = {"refused": 0, "unsealed_max": 130, "vouched": 890}


@pytest.mark.parametrize(
    ("books", "counts", "refused", "word"),
    [
        ({}, {}, "", ""),
        ({}, {}, "refused: s", "the miner refused: refused: s"),
        ({}, {"refused": 2}, "", "refused 2 orders"),
        ({}, {"unsealed_max": 5000}, "", "5000 orders waited for a seal"),
        ({}, {"vouched": 0}, "", "no order came under a session"),
        ({"records": 0}, {}, "", "no record came"),
        ({"bad": 3, "first_bad": "forged"}, {}, "", "3 of 90 records do not hold: forged"),
        ({"decided": 0}, {}, "", "no record holds a routing decision"),
    ],
)
def test_a_row_of_ours_is_only_good_when_all_was_on(
    books: dict[str, Any], counts: dict[str, Any], refused: str, word: str
) -> None:
    found = faults({**GOOD, **books}, {**SERVED, **counts}, refused=refused)
    assert len(found) == bool(word)
    assert all(word in one for one in found)


def test_self_time_is_summed_by_file_and_by_function() -> None:
    lines = [
        "<module> (app.py:9);run (asyncio/runners.py:5);feed (/a/src/penstock/kit/wire/link.py:3) 6",
        "<module> (app.py:9);feed (/a/src/penstock/kit/wire/link.py:8) 2",
        "<module> (app.py:9);sign (/a/src/penstock/kit/keys.py:8) 2",
        "",
        "no count at all",
    ]
    files, functions, wholes = shares(lines)
    assert files == {"kit/wire/link.py": 0.8, "kit/keys.py": 0.2}
    assert functions == {"feed (kit/wire/link.py)": 0.8, "sign (kit/keys.py)": 0.2}
    assert wholes == functions, "neither of them calls the other"
    text = profile_table(Profile("chat", "request", 100.0, 40.0, files, functions, wholes))
    assert "### chat: 100.0 us a request, of it 40.0 in the kernel" in text
    assert "| kit/wire/link.py | 80.0% | 80.00 |" in text


def test_what_a_function_calls_is_counted_for_it_once_however_deep() -> None:
    stack = "run (asyncio/runners.py:5);feed (/x/penstock/kit/a.py:1);feed (/x/penstock/kit/a.py:2)"
    _, functions, wholes = shares([f"{stack};sign (/x/penstock/kit/keys.py:8) 3", f"{stack} 1"])
    assert functions == {"sign (kit/keys.py)": 0.75, "feed (kit/a.py)": 0.25}
    assert wholes == {"feed (kit/a.py)": 1.0, "sign (kit/keys.py)": 0.75}


def test_a_run_is_described_and_drawn_from_its_own_file(tmp_path: Path) -> None:
    samples = run({**PEERS, "penstock": 2.0})
    two = Cores(ends=frozenset({0}), gateway=frozenset({1}))
    told = json.loads(json.dumps(describe(samples, versions={"nginx": "1.22.1"}, cores=two)))
    assert (told["machine"]["gateway_core"], told["versions"]) == ([1], {"nginx": "1.22.1"})
    assert read_samples(told) == samples
    (tmp_path / "gateway.run.json").write_text(json.dumps(told))
    picture = draw(tmp_path / "gateway.run.json", tmp_path / "images").read_text()
    assert "sglang-router" in picture
    assert "CPU per request" in picture


def test_a_machine_with_one_core_is_told_from_one_with_two() -> None:
    assert not Cores(ends=frozenset({0}), gateway=frozenset({0})).are_apart
    assert Cores(ends=frozenset({0}), gateway=frozenset({1})).are_apart
    assert processor("processor : 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert processor("") == ""


def test_progress_is_a_line_a_step_where_nobody_looks_on() -> None:
    out = io.StringIO()
    progress = Progress(total=steps(2, Plan(repeats=1, seconds=1)), out=out)
    progress.step("warm-up nginx")
    progress.note("haproxy is skipped: it is not installed")
    progress.finish()
    lines = out.getvalue().splitlines()
    assert "0/8" in lines[0]
    assert lines[1] == "haproxy is skipped: it is not installed"
    assert "1/8" in lines[2]


def test_a_target_that_does_not_exist_is_refused_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--targets", "ngnix"])
    said = capsys.readouterr().err
    assert "there is no target 'ngnix'" in said
    assert all(name in said for name in ALL)
