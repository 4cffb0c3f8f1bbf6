"""Pictures of a run: `python -m bench.gateway --plot docs/images` draws the last one.

CPU on a logarithmic axis (LiteLLM is hundreds of times dearer than nginx), every repetition a dot on
its bar.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
from bench.gateway.measure import Sample
from bench.gateway.results import CHUNK, DELAY, MEMORY, REQUEST, Values, middle, values

OURS = "#1f77b4"
PEERS = "#b8c2cc"
PANELS = (
    (REQUEST, "CPU per request, ms"),
    (CHUNK, "CPU per chunk, 256-chunk streams, us"),
    ("cpu_us_per_paced_chunk", "CPU per chunk, 500 paced streams, us"),
    (MEMORY, "memory per open stream, KiB"),
)


def draw(run: Path, folder: Path) -> Path:
    """`bench-gateway.svg` in the folder, from a `gateway.run.json`."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    found = values(read_samples(json.loads(run.read_text())))
    chart, panels = plt.subplots(2, 2, figsize=(9, 5.4))
    for axes, (metric, title) in zip(panels.flat, PANELS, strict=True):
        _bars(axes, found, metric)
        axes.set_title(title, fontsize=9, loc="left")
    chart.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench-gateway.svg"
    chart.savefig(path, metadata={"Date": None})
    return path


def read_samples(told: dict[str, Any]) -> list[Sample]:
    """The samples of a `gateway.run.json`."""
    return msgspec.convert(told["samples"], list[Sample])


def _bars(axes: Any, found: Values, metric: str) -> None:
    names = [name for name in dict.fromkeys(one for one, _ in found) if name != "direct"]
    names = [name for name in names if middle(found, name, metric) is not None]
    for place, name in enumerate(names):
        value = middle(found, name, metric) or 0.0
        colour = OURS if name == "penstock" else PEERS
        axes.barh(place, value, color=colour, height=0.7)
        dots = found[name, metric]
        axes.plot(dots, [place] * len(dots), ".", color="black", markersize=3)
        axes.annotate(f" {value:.3g}", (max(dots), place), va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if metric not in {MEMORY, DELAY}:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
