"""The miner's page says what was measured, what was promised, and which promise was not kept."""

from pathlib import Path

from bench.cpu import resident_kib
from bench.figures import Figure
from bench.miner import FAST, FIRST, WHOLE, Seen, figures_of, first_figures
from bench.miner_page import GOALS, goals_table, write_page


def test_every_promise_has_a_row_met_missed_or_not_measured(tmp_path: Path) -> None:
    figures = [
        Figure("x", "front_cpu_ms_per_request", "ms", 0.2),
        Figure("x", "agent_idle_mb", "MB", 50.0),
        Figure("x", "chunks a read", "", 16.0),
    ]
    rows = goals_table(figures).splitlines()[2:]
    assert len(rows) == len(GOALS)
    assert "**missed**" in rows[0]
    assert "| 0.2 ms | 0.15 ms |" in rows[0]
    assert "| met |" in next(row for row in rows if "agent_idle_mb" in row)
    assert "not measured" in next(row for row in rows if "cold_start_s" in row)
    page = write_page(figures, page=tmp_path / "page.md")
    assert "`chunks a read` | 16 |" in page.read_text()


def test_cpu_is_told_per_request_and_per_chunk_over_the_median_round() -> None:
    [whole] = figures_of(WHOLE, Seen(cpu_ms=[0.3, 0.1, 0.2], chunks=[0.0], reads=[1.0]))
    assert (whole.metric, whole.value) == ("front_cpu_ms_per_request", 0.2)
    chunk, reads = figures_of(FAST, Seen(cpu_ms=[0.512], chunks=[256.0], reads=[4.0]))
    assert (chunk.metric, chunk.value) == ("front_cpu_us_per_chunk", 2.0)
    assert reads.value == 64


def test_what_the_front_adds_is_the_difference_of_medians() -> None:
    seen = Seen(first_ms={"front": [3.0, 1.0, 2.0], "bare engine": [0.5, 0.5, 9.0]})
    added = next(one for one in first_figures(seen) if one.metric == "front_added_ttft_ms")
    assert (added.target, added.value) == (FIRST.name, 1.5)


def test_the_memory_of_a_process_that_is_gone_is_nothing() -> None:
    assert resident_kib(2**22 + 1) == 0
