"""Metrics: cheap, bounded, rendered the same every time."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.metrics import BUCKETS, Metrics, series


def test_counters_and_gauges_are_rendered_sorted() -> None:
    metrics = Metrics()
    metrics.count("b_total")
    metrics.count("a_total", 2, outcome="complete", chute="x")
    metrics.count("a_total", 3, chute="x", outcome="complete")
    metrics.gauge("open_links", 7)
    metrics.gauge("open_links", 4)
    assert metrics.render().decode().splitlines() == [
        "# TYPE a_total counter",
        'a_total{chute="x",outcome="complete"} 5',
        "# TYPE b_total counter",
        "b_total 1",
        "# TYPE open_links gauge",
        "open_links 4",
        "# TYPE metrics_series_dropped_total counter",
        "metrics_series_dropped_total 0",
    ]


@given(st.lists(st.integers(0, 10_000_000), max_size=50))
def test_a_histogram_counts_every_value_in_its_bucket(values: list[int]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.observe("ttft_ms", value, chute="x")
    lines = metrics.render().decode().splitlines()
    if not values:
        assert not any("ttft" in line for line in lines)
        return
    for bound in BUCKETS:
        n = sum(value <= bound for value in values)
        assert f'ttft_ms_bucket{{chute="x",le="{bound}"}} {n}' in lines
    assert f'ttft_ms_bucket{{chute="x",le="+Inf"}} {len(values)}' in lines
    assert f'ttft_ms_sum{{chute="x"}} {sum(values)}' in lines
    assert f'ttft_ms_count{{chute="x"}} {len(values)}' in lines


def test_labels_cannot_break_a_line() -> None:
    metrics = Metrics()
    metrics.count("a_total", path='x"\n\\')
    assert b'a_total{path="x\\"\\n\\\\"} 1\n' in metrics.render()


def test_series_beyond_the_bound_are_dropped_and_counted() -> None:
    metrics = Metrics(series_max=3)
    for n in range(10):
        metrics.count("a_total", user=str(n))
        metrics.observe("b_ms", n, user=str(n))
        metrics.gauge("c", n, user=str(n))
    assert metrics.value("a_total", user="0") == 1
    assert metrics.value("a_total", user="9") == 0
    assert b"metrics_series_dropped_total 27" in metrics.render()
    metrics.count("a_total", user="0")
    assert metrics.value("a_total", user="0") == 2


def test_a_counter_that_is_held_is_the_one_that_is_rendered() -> None:
    metrics = Metrics()
    held, times = metrics.counter(series("a_total", kind="x")), metrics.histogram("b_ms")
    assert b'a_total{kind="x"} 0' in metrics.render()
    held.n += 2
    metrics.count("a_total", 3, kind="x")
    times.add(7)
    metrics.observe("b_ms", 1)
    assert metrics.value("a_total", kind="x") == 5
    assert b"b_ms_sum 8" in metrics.render()
    assert metrics.counter(series("a_total", kind="x")) is held
    assert metrics.histogram("b_ms") is times
