"""Counters, gauges and histograms in memory, rendered in Prometheus' text format.

Cheap enough for the hot path (a dictionary addition) and bounded: a label that explodes fills
`series_max`, after which new series are dropped and counted instead of eating the memory.
"""

from bisect import bisect_left

# 1-2-5 steps fit milliseconds, microseconds and bytes alike; the unit is in the metric's name.
BUCKETS = tuple(step * 10**power for power in range(7) for step in (1, 2, 5))

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, _Labels]


class Metrics:
    """All metrics of one process. Names carry their unit last (`gateway_ttft_ms`)."""

    def __init__(self, *, series_max: int = 2_000) -> None:
        self._series_max = series_max
        self._counters: dict[_Key, int] = {}
        self._gauges: dict[_Key, int | float] = {}
        self._histograms: dict[_Key, _Histogram] = {}
        self._dropped = 0

    def count(self, name: str, n: int = 1, **labels: str) -> None:
        """Add `n` to a counter; by convention its name ends in `_total`."""
        key = _key(name, labels)
        seen = self._counters.get(key)
        if seen is not None:
            self._counters[key] = seen + n
        elif self._room():
            self._counters[key] = n

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
            histogram = self._histograms[key] = _Histogram()
        histogram.add(value)

    def value(self, name: str, **labels: str) -> int | float:
        """A counter's or a gauge's value, 0 if never set; for tests and status pages."""
        key = _key(name, labels)
        return self._counters.get(key, self._gauges.get(key, 0))

    def render(self) -> bytes:
        """The Prometheus text exposition, sorted, so that equal states give equal bytes."""
        lines: list[str] = []
        self._render_plain(lines, "counter", self._counters)
        self._render_plain(lines, "gauge", self._gauges)
        named = ""
        for (name, labels), histogram in sorted(self._histograms.items(), key=lambda item: item[0]):
            if name != named:
                lines.append(f"# TYPE {name} histogram")
                named = name
            lines += histogram.lines(name, labels)
        lines.append("# TYPE metrics_series_dropped_total counter")
        lines.append(f"metrics_series_dropped_total {self._dropped}")
        return ("\n".join(lines) + "\n").encode()

    def _room(self) -> bool:
        size = len(self._counters) + len(self._gauges) + len(self._histograms)
        if size < self._series_max:
            return True
        self._dropped += 1
        return False

    @staticmethod
    def _render_plain(
        lines: list[str], kind: str, series: dict[_Key, int] | dict[_Key, int | float]
    ) -> None:
        named = ""
        for (name, labels), value in sorted(series.items()):
            if name != named:
                lines.append(f"# TYPE {name} {kind}")
                named = name
            lines.append(f"{name}{_braces(labels)} {value}")


class _Histogram:
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


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
