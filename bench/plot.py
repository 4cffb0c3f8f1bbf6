"""One picture of a run: the CPU of a request by process, for the cases that went through the market."""

import json
from pathlib import Path

SERIES = ("gateway", "miner", "ledger", "postgres", "nats", "engine")
PREFIX = "market: "


def draw(figures: Path, target: Path) -> None:
    """Draw `way.json` as stacked bars; the file's ending chooses the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    rows = [one for one in json.loads(figures.read_text()) if one["target"].startswith(PREFIX)]
    names = list(dict.fromkeys(one["target"] for one in rows))
    spent = {(one["target"], one["metric"]): float(one["value"]) for one in rows}
    chart, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1.2))
    left = [0.0] * len(names)
    for series in SERIES:
        widths = [spent.get((name, f"{series} CPU"), 0.0) for name in names]
        axes.barh(range(len(names)), widths, left=left, label=series, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), [name.removeprefix(PREFIX) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("CPU, ms per request")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    chart.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    chart.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
