"""Figures: what a bench measured, as rows for people and as JSON for machines."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: of what (`target`), which (`metric`), in what (`unit`)."""

    target: str
    metric: str
    unit: str
    value: float


def write(name: str, figures: list[Figure], *, folder: Path = OUT) -> Path:
    """Write `NAME.json`: a list of objects with the four fields."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    rows = [asdict(one) for one in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return path


def table(figures: list[Figure]) -> str:
    """A Markdown table: a row a target, a column a metric, in the order of first appearance."""
    targets = list(dict.fromkeys(one.target for one in figures))
    columns = list(dict.fromkeys((one.metric, one.unit) for one in figures))
    cells = {(one.target, one.metric, one.unit): spelled(one.value) for one in figures}
    head = ["target", *(f"{metric} ({unit})" if unit else metric for metric, unit in columns)]
    rows = [
        [target, *(cells.get((target, *column), "") for column in columns)] for target in targets
    ]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [_line(head, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def spelled(value: float) -> str:
    """Three digits that say something, no more."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"


def _line(row: list[str], widths: list[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
    return "| " + " | ".join(cells) + " |"
