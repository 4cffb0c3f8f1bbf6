"""Counters, gauges and histograms in memory, rendered in Prometheus' text format.

Cheap enough for the hot path (a dictionary addition) and bounded: a label that explodes fills
`series_max`, after which new series are dropped and counted instead of eating the memory.
"""

from bisect import bisect_left
from collections.abc import Mapping

# 1-2-5 steps fit milliseconds, microseconds and bytes alike; the unit is in the metric's name.
BUCKETS = tuple(step * 10**power for power in range(7) for step in (1, 2, 5))

DROPPED = "metrics_series_dropped_total"

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, _Labels]
Series = _Key
"""One counter with its labels, named once (`series`) and counted often (`add`)."""


def series(name: str, **labels: str) -> Series:
    """A name for `Metrics.add`."""
    return _key(name, labels)


class Counter:
    """One number that only grows, held by whoever counts often: `counter.n += 1`."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Metrics:
    """All metrics of one process. Names carry their unit last (`gateway_ttft_ms`).

    `about` says in a sentence what each is (the HELP line); `labels` stand on every series, so that
    several processes of one station can be told apart.
    """

    def __init__(
        self,
        *,
        series_max: int = 2_000,
        about: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._series_max = series_max
        self._about = about if about is not None else {}
        self._own = tuple(sorted(labels.items())) if labels else ()
        self._counters: dict[_Key, Counter] = {}
        self._gauges: dict[_Key, int | float] = {}
        self._histograms: dict[_Key, Histogram] = {}
        self._dropped = 0

    def count(self, name: str, n: int = 1, **labels: str) -> None:
        """Add `n` to a counter; by convention its name ends in `_total`."""
        self.add(_key(name, labels), n)

    def add(self, one: Series, n: int = 1) -> None:
        """`count` for a counter that was named before."""
        seen = self._counters.get(one)
        if seen is not None:
            seen.n += n
        elif self._room():
            self.counter(one).n = n

    def counter(self, one: Series) -> Counter:
        """The counter itself, for the hot path; shown from now on. There is room for what stands in the
        code.
        """
        return self._counters.setdefault(one, Counter())

    def histogram(self, name: str) -> "Histogram":
        """The histogram itself, likewise."""
        return self._histograms.setdefault((name, ()), Histogram())

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge to `value`."""
        key = _key(name, labels)
        if key in self._gauges or self._room():
            self._gauges[key] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put `value` into a histogram with the fixed 1-2-5 buckets."""
        key = _key(name, labels)
        histogram = self._histograms.get(key)
        if histogram is None:
            if not self._room():
                return
            histogram = self._histograms[key] = Histogram()
        histogram.add(value)

    def value(self, name: str, **labels: str) -> int | float:
        """A counter's or a gauge's value, 0 if never set; for tests and status pages."""
        key = _key(name, labels)
        counter = self._counters.get(key)
        return counter.n if counter is not None else self._gauges.get(key, 0)

    def render(self) -> bytes:
        """The Prometheus text exposition, sorted, so that equal states give equal bytes."""
        lines: list[str] = []
        counters = {key: one.n for key, one in self._counters.items()}
        self._render_plain(lines, "counter", counters)
        self._render_plain(lines, "gauge", self._gauges)
        named = ""
        for (name, labels), histogram in sorted(self._histograms.items(), key=lambda item: item[0]):
            if name != named:
                lines += self._heads(name, "histogram")
                named = name
            lines += histogram.lines(name, (*labels, *self._own))
        lines += self._heads(DROPPED, "counter")
        lines.append(f"{DROPPED}{_braces(self._own)} {self._dropped}")
        return ("\n".join(lines) + "\n").encode()

    def _room(self) -> bool:
        size = len(self._counters) + len(self._gauges) + len(self._histograms)
        if size < self._series_max:
            return True
        self._dropped += 1
        return False

    def _render_plain(
        self, lines: list[str], kind: str, series: dict[_Key, int] | dict[_Key, int | float]
    ) -> None:
        named = ""
        for (name, labels), value in sorted(series.items()):
            if name != named:
                lines += self._heads(name, kind)
                named = name
            lines.append(f"{name}{_braces((*labels, *self._own))} {value}")

    def _heads(self, name: str, kind: str) -> list[str]:
        about = self._about.get(name, "")
        helps = [f"# HELP {name} {_one_line(about)}"] if about else []
        return [*helps, f"# TYPE {name} {kind}"]


class Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum: int | float = 0

    def add(self, value: float) -> None:
        self._counts[bisect_left(BUCKETS, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: _Labels) -> list[str]:
        lines: list[str] = []
        total = 0
        for bound, n in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            total += n
            lines.append(f"{name}_bucket{_braces((*labels, ('le', bound)))} {total}")
        lines.append(f"{name}_sum{_braces(labels)} {self._sum}")
        lines.append(f"{name}_count{_braces(labels)} {total}")
        return lines


def _key(name: str, labels: dict[str, str]) -> _Key:
    return (name, tuple(sorted(labels.items())) if labels else ())


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}"


def merged(expositions: list[bytes]) -> bytes:
    """What several processes export, as one text: each family once, with the samples of all."""
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for exposition in expositions:
        name = ""
        for line in exposition.decode().splitlines():
            if line.startswith("# "):
                _, kind, name, _ = line.split(" ", 3)
                heads.setdefault(name, {}).setdefault(kind, line)
            else:
                samples.setdefault(name, []).append(line)
    lines = [line for name in heads for line in (*heads[name].values(), *samples.get(name, ()))]
    return ("\n".join(lines) + "\n").encode()


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", " ")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
