"""The routing study: our policy beside the published ones, on synthetic sessions of two models.

`make bench-routing`, or `python -m bench.routing [--quick] [--requests N] [--jobs N]`. Prints a table
a model, writes `bench/out/routing.json` and the picture in `docs/images`. Exit status 1 says that our
policy missed a target: the paper's `cache_first` at some cache size, or the balance.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

from bench.figures import OUT, Figure, write

from penstock.sim.study.paper import IMBALANCE_MAX_PPM, TABLES, Table
from penstock.sim.study.policies import POLICIES
from penstock.sim.study.replay import Cell, replay
from penstock.sim.study.traffic import Ask, requests

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "routing.svg"
REQUESTS, REQUESTS_QUICK = 150_000, 3_000
SEED = 1
OURS = "penstock"
PPM = 1_000_000


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="bench.routing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short: shows only that it runs")
    parser.add_argument("--requests", type=int, default=0, help="per cell")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON file")
    parser.add_argument("--plot", type=Path, default=None, help="draw into this file")
    wish = parser.parse_args(arguments)
    count = wish.requests or (REQUESTS_QUICK if wish.quick else REQUESTS)
    began = time.perf_counter()
    cells = study(count, jobs=wish.jobs)
    path = write("routing", list(figures(cells, count)), folder=wish.out)
    for table in TABLES:
        print("\n".join(lines(table, cells)))
    print(f"{count} requests a cell, {time.perf_counter() - began:.0f} s, {path}")
    picture = wish.plot or (None if wish.quick else PICTURE)
    if picture is not None:
        draw(cells, picture)
    missed = list(misses(cells))
    print("\n".join(missed) or "every target is met")
    return bool(missed) and not wish.quick


Cells = dict[tuple[int, str, int], Cell]
"""By table, policy and cache size."""


def study(count: int, *, jobs: int) -> Cells:
    """All cells of all tables."""
    keys = [
        (number, policy, size)
        for number, table in enumerate(TABLES)
        for size in table.sizes
        for policy in POLICIES
    ]
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(_cell, [(*key, count) for key in keys])
        return dict(zip(keys, found, strict=True))


@lru_cache(maxsize=1)
def _asks(name: str, count: int) -> list[Ask]:
    workload = next(one.workload for one in TABLES if one.workload.name == name)
    return requests(workload, count, seed=SEED)


def _cell(key: tuple[int, str, int, int]) -> Cell:
    number, policy, size, count = key
    table = TABLES[number]
    asks = _asks(table.workload.name, count)
    return replay(asks, policy, instances=table.instances, cache_tokens=size, seed=SEED)


def figures(cells: Cells, count: int) -> Iterator[Figure]:
    """What is written: hit rate and imbalances of every cell, and the paper's hit rate beside it."""
    for (number, policy, size), cell in cells.items():
        table = TABLES[number]
        target = f"{table.workload.name}, {table.instances} x {size}, {policy}"
        yield Figure(target, "token_hit_rate", "", cell.hit_ppm / PPM)
        paper = table.hits.get(policy)
        if paper is not None:
            yield Figure(target, "paper_token_hit_rate", "", paper[table.sizes.index(size)] / 1000)
        yield Figure(target, "token_imbalance", "%", cell.token_imbalance_ppm / 10_000)
        yield Figure(target, "work_imbalance", "%", cell.work_imbalance_ppm / 10_000)
        yield Figure(target, "requests", "", count)


def lines(table: Table, cells: Cells) -> Iterator[str]:
    """A Markdown table: ours / the paper's by cache size, and the worst imbalance of tokens."""
    number = TABLES.index(table)
    yield f"\n{table.workload.name}, {table.instances} instances: hit rate (the paper's)\n"
    yield "| policy | " + " | ".join(_short(size) for size in table.sizes) + " | imbalance |"
    yield "|---|" + "---|" * (len(table.sizes) + 1)
    for policy in POLICIES:
        row = [cells[number, policy, size] for size in table.sizes]
        paper = table.hits.get(policy, (0,) * len(row))
        texts = [
            _rate(cell.hit_ppm) + (f" ({_rate(other * 1000)})" if other else "")
            for cell, other in zip(row, paper, strict=True)
        ]
        worst = max(cell.token_imbalance_ppm for cell in row)
        yield f"| {policy} | " + " | ".join(texts) + f" | {worst / 10_000:.1f} % |"


def misses(cells: Cells) -> Iterator[str]:
    """Where our policy is worse than it must be."""
    for number, table in enumerate(TABLES):
        for size, paper in zip(table.sizes, table.hits["cache_first"], strict=True):
            cell = cells[number, OURS, size]
            name = f"{table.workload.name}, {table.instances} x {size}"
            if cell.hit_ppm < paper * 1000:
                yield f"MISSED {name}: hit rate {_rate(cell.hit_ppm)}, the paper's {_rate(paper * 1000)}"
            if cell.token_imbalance_ppm > IMBALANCE_MAX_PPM:
                yield f"MISSED {name}: imbalance {cell.token_imbalance_ppm / 10_000:.1f} %"


def draw(cells: Cells, target: Path) -> None:
    """Hit rate over cache size, a panel a table: measured solid, the paper's dashed."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    chart, panels = plt.subplots(1, len(TABLES), figsize=(12, 3.8))
    for number, (table, axes) in enumerate(zip(TABLES, panels, strict=True)):
        for place, policy in enumerate(POLICIES):
            colour = f"C{place}"
            rates = [cells[number, policy, size].hit_ppm / PPM for size in table.sizes]
            wide = 2.4 if policy == OURS else 1.2
            axes.plot(table.sizes, rates, color=colour, label=policy, linewidth=wide)
            if policy in table.hits:
                paper = [one / 1000 for one in table.hits[policy]]
                axes.plot(table.sizes, paper, color=colour, linestyle=":", marker=".")
        axes.set_xscale("log")
        axes.set_title(f"{table.workload.name}, {table.instances} instances", fontsize=10)
        axes.set_xlabel("cache of one instance, tokens")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("token hit rate (dotted: the paper)")
    panels[1].legend(frameon=False, fontsize=8, loc="center right")
    chart.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    chart.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def _short(size: int) -> str:
    return f"{size // 1000}k" if size % 1000 == 0 else str(size)


def _rate(ppm: int) -> str:
    return f"{ppm / PPM:.3f}".lstrip("0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
