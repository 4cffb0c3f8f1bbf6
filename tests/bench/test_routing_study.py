"""The routing study's bench: what it writes, prints and draws, and that it says what it missed."""

from pathlib import Path

from bench.routing import OURS, Cells, draw, figures, lines, misses

from penstock.sim.study.paper import IMBALANCE_MAX_PPM, TABLES
from penstock.sim.study.policies import POLICIES
from penstock.sim.study.replay import Cell


def cells(*, above: int = 0, imbalance_ppm: int = 0) -> Cells:
    """The paper's own figures as if measured; ours so many thousandths above `cache_first`."""
    found: Cells = {}
    for number, table in enumerate(TABLES):
        for place, size in enumerate(table.sizes):
            for policy in POLICIES:
                rate = table.hits[policy if policy != OURS else "cache_first"][place]
                ours = policy == OURS
                found[number, policy, size] = Cell(
                    policy=policy,
                    instances=table.instances,
                    cache_tokens=size,
                    requests=1,
                    hit_ppm=(rate + above * ours) * 1_000,
                    token_imbalance_ppm=imbalance_ppm * ours,
                    work_imbalance_ppm=0,
                )
    return found


def test_a_study_that_reaches_the_paper_misses_nothing() -> None:
    assert list(misses(cells())) == []
    assert list(misses(cells(above=3, imbalance_ppm=IMBALANCE_MAX_PPM))) == []


def test_every_cell_below_the_paper_or_out_of_balance_is_named() -> None:
    sizes = sum(len(table.sizes) for table in TABLES)
    below = list(misses(cells(above=-1)))
    assert len(below) == sizes
    assert "hit rate .381, the paper's .382" in below[0]
    assert len(list(misses(cells(imbalance_ppm=IMBALANCE_MAX_PPM + 1)))) == sizes


def test_the_table_shows_both_figures_and_the_worst_imbalance() -> None:
    text = "\n".join(lines(TABLES[0], cells(imbalance_ppm=12_000)))
    assert "| sticky | .105 (.105) |" in text
    assert text.count("\n| ") == len(POLICIES) + 1
    assert text.endswith("| 1.2 % |")


def test_figures_name_cell_and_policy() -> None:
    rows = list(figures(cells(), 7))
    assert {row.metric for row in rows} == {
        *("token_hit_rate", "paper_token_hit_rate", "token_imbalance", "work_imbalance", "requests")
    }
    assert rows[0].target == "MiniMax M2.5, 5 x 1125, round_robin"


def test_the_picture_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    draw(cells(), one)
    draw(cells(), other)
    assert one.read_bytes() == other.read_bytes()
