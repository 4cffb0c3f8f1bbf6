"""From samples to figures: medians and spread, ratios, and the goals with met or missed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.figures import Figure, spelled
from bench.gateway.measure import Sample

REQUEST, CHUNK = "cpu_ms_per_request", "cpu_us_per_chunk"
KEEPUP, DELAY, MEMORY = "paced_keepup", "paced_delay_p99_us", "kib_per_stream"
UNITS = {
    REQUEST: "ms",
    CHUNK: "us",
    KEEPUP: "",
    DELAY: "us",
    MEMORY: "KiB",
    "cpu_us_per_paced_chunk": "us",
    "requests_per_s": "1/s",
    "chat_p50_us": "us",
    "chat_p99_us": "us",
    "chunks_per_read": "",
    "paced_delay_p50_us": "us",
    "errors": "",
    "lost_chunks": "",
}
BASES = ("nginx", "sglang-router")
RATIOS = (REQUEST, CHUNK, "cpu_us_per_paced_chunk", DELAY)
KEEPUP_MIN = 0.99
DELAY_FLOOR_US = 1.0

Values = dict[tuple[str, str], list[float]]
"""By (target, metric): the value of each repetition."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise: what was measured, the bound, and whether it was met."""

    text: str
    measured: float
    bound: float
    is_met: bool


def values(samples: Sequence[Sample]) -> Values:
    """Every metric of every repetition. Delays are what the target adds to direct's median."""
    found: Values = {}
    for sample in samples:
        for metric, value in _metrics(sample).items():
            found.setdefault((sample.target, metric), []).append(value)
    for metric in (DELAY, "paced_delay_p50_us"):
        base = median(found.get(("direct", metric), [0.0]))
        for (target, name), all_of in found.items():
            if name == metric and target != "direct":
                all_of[:] = [max(DELAY_FLOOR_US, one - base) for one in all_of]
    return found


def _metrics(sample: Sample) -> dict[str, float]:
    seen, cpu_us = sample.seen, sample.cpu_ms * 1000
    bad = {"errors": float(seen.errors), "lost_chunks": float(seen.lost)}
    if sample.workload == "chat":
        return {
            REQUEST: sample.cpu_ms / max(1, seen.requests),
            "requests_per_s": seen.requests * 1e6 / max(1, seen.wall_us),
            "chat_p50_us": seen.whole_p50_us,
            "chat_p99_us": seen.whole_p99_us,
            **bad,
        }
    if sample.workload == "fast":
        return {
            CHUNK: cpu_us / max(1, seen.chunks),
            "chunks_per_read": seen.chunks / max(1, seen.reads),
            **bad,
        }
    told = {
        KEEPUP: seen.steady_chunks / max(1, seen.steady_due),
        DELAY: float(seen.delay_p99_us),
        "paced_delay_p50_us": float(seen.delay_p50_us),
        "cpu_us_per_paced_chunk": cpu_us / max(1, seen.chunks),
        **bad,
    }
    if sample.stream_kib is not None:
        told[MEMORY] = sample.stream_kib / max(1, seen.requests + seen.cut)
    return told


def middle(found: Values, target: str, metric: str) -> float | None:
    """The median, or the sum where each counts; None if it was not measured."""
    all_of = found.get((target, metric))
    if not all_of:
        return None
    return sum(all_of) if metric in {"errors", "lost_chunks"} else median(all_of)


def figures(found: Values) -> list[Figure]:
    """Medians, then the ratios to the bases (`METRIC / BASE`, unit `x`)."""
    targets = list(dict.fromkeys(target for target, _ in found))
    rows = []
    for target in targets:
        for metric, unit in UNITS.items():
            value = middle(found, target, metric)
            if value is not None:
                rows.append(Figure(target, metric, unit, round(value, 6)))
    for target in targets:
        for metric in RATIOS:
            for base in BASES:
                times = ratio(found, target, metric, base=base)
                if times is not None:
                    rows.append(Figure(target, f"{metric} / {base}", "x", round(times, 4)))
    return rows


def ratio(found: Values, target: str, metric: str, *, base: str) -> float | None:
    """The target's median over the base's."""
    value, under = middle(found, target, metric), middle(found, base, metric)
    return None if value is None or not under else value / under


def goals(found: Values, *, ours: str = "penstock") -> list[Goal]:
    """The promises of the gateway, as far as both sides were measured."""
    told: list[Goal] = []
    for text, metric, base, bound in (
        ("CPU per request <= 0.8 x sglang-router's", REQUEST, "sglang-router", 0.8),
        ("CPU per chunk <= 1.6 x nginx's", CHUNK, "nginx", 1.6),
        ("CPU per chunk <= 0.5 x sglang-router's", CHUNK, "sglang-router", 0.5),
        ("CPU per request <= 0.01 x LiteLLM's", REQUEST, "litellm", 0.01),
        ("CPU per chunk <= 0.01 x LiteLLM's", CHUNK, "litellm", 0.01),
        ("p99 of the added delay, 500 paced streams <= 2 x nginx's", DELAY, "nginx", 2.0),
    ):
        times = ratio(found, ours, metric, base=base)
        if times is not None:
            told.append(Goal(text, times, bound, times <= bound))
    keepup, memory = middle(found, ours, KEEPUP), middle(found, ours, MEMORY)
    if keepup is not None:
        text = f"500 paced streams keep up (>= {KEEPUP_MIN})"
        told.append(Goal(text, keepup, KEEPUP_MIN, keepup >= KEEPUP_MIN))
    if memory is not None:
        told.append(Goal("KiB per open stream <= 40", memory, 40, memory <= 40))
    return told


COLUMNS = (
    ("CPU ms/request", REQUEST, True),
    ("CPU us/chunk", CHUNK, True),
    ("CPU us/paced chunk", "cpu_us_per_paced_chunk", True),
    ("keep-up", KEEPUP, False),
    ("delay p99 us", DELAY, False),
    ("KiB/stream", MEMORY, False),
    ("requests/s", "requests_per_s", False),
    ("errors", "errors", False),
    ("lost", "lost_chunks", False),
)


def table(found: Values) -> str:
    """A Markdown table: median (lowest to highest) of each target, and times nginx's, sglang's."""
    head = ["target"]
    for title, _, has_ratio in COLUMNS:
        head += [title, "x nginx", "x sglang"] if has_ratio else [title]
    rows = [head]
    for target in dict.fromkeys(target for target, _ in found):
        row = [target]
        for _, metric, has_ratio in COLUMNS:
            row.append(_cell(found, target, metric))
            if has_ratio:
                row += [_times(found, target, metric, base=base) for base in BASES]
        rows.append(row)
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def goals_table(told: Sequence[Goal]) -> str:
    """One line a goal."""
    lines = ["| goal | measured | |", "|---|---|---|"]
    lines += [
        f"| {one.text} | {spelled(one.measured)} | {'met' if one.is_met else 'missed'} |"
        for one in told
    ]
    return "\n".join(lines)


def _cell(found: Values, target: str, metric: str) -> str:
    value = middle(found, target, metric)
    if value is None:
        return ""
    all_of = found[target, metric]
    if len(all_of) == 1 or min(all_of) == max(all_of) or metric in {"errors", "lost_chunks"}:
        return spelled(value)
    return f"{spelled(value)} ({spelled(min(all_of))}-{spelled(max(all_of))})"


def _times(found: Values, target: str, metric: str, *, base: str) -> str:
    times = ratio(found, target, metric, base=base)
    return "" if times is None else f"{times:.2f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "| " + " | ".join(cells) + " |"
