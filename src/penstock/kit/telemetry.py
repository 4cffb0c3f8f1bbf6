"""Spans: what happened, from when to when, under which trace; for whoever collects them.

The trace of a caller is continued as W3C Trace Context says. A span is made when it is over, out of
the times that were noted anyway, so that nothing is held open on the way. Where a span goes is the
sink's business (`adapters/otel.py`). No attribute is ever made of a prompt, an answer, or a secret.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
MILLION = 1_000_000
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(rb"[\x20-\x7e]{1,512}")
_SAMPLED = 1
_NOTHING = re.compile("0+")

Value = str | int | float | bool


class SpanKind(Enum):
    """Which side of a call a span tells of."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a span stands. `parent_id` is "" for the first; `state` is the caller's `tracestate`."""

    trace_id: str
    span_id: str
    parent_id: str
    is_sampled: bool
    state: bytes = b""

    def header_lines(self) -> bytes:
        """For the next one down the line, in HTTP."""
        line = (
            f"\r\ntraceparent: 00-{self.trace_id}-{self.span_id}-0{int(self.is_sampled)}".encode()
        )
        return line + b"\r\ntracestate: " + self.state if self.state else line


@dataclass(frozen=True, slots=True)
class Span:
    """One that is over. Times are Unix microseconds; `error` is "" for what went well."""

    name: str
    kind: SpanKind
    trace: Trace
    start_us: int
    end_us: int
    attributes: Mapping[str, Value]
    error: str = ""


class SpanSink(Protocol):
    """Takes spans without waiting; drops them when it is full."""

    def take(self, span: Span) -> None: ...


class Tracer:
    """Decides which requests are traced, and names their spans.

    A caller that brings a trace has decided; of the others `sample_ppm` are traced.
    """

    def __init__(self, sink: SpanSink, chance: random.Random, *, sample_ppm: int) -> None:
        self._sink = sink
        self._chance = chance
        self._sample_ppm = sample_ppm

    def begin(self, traceparent: bytes, tracestate: bytes) -> Trace | None:
        """A span for a request with these headers (b"" for none); None when it is not traced. One that
        is passed on but not recorded has `is_sampled` false.
        """
        found = _PARENT.fullmatch(traceparent) if traceparent else None
        if found is not None and _is_valid(found):
            state = tracestate if _STATE.fullmatch(tracestate) else b""
            return Trace(
                trace_id=found[2].decode(),
                span_id=self._fresh(64),
                parent_id=found[3].decode(),
                is_sampled=bool(int(found[4], 16) & _SAMPLED),
                state=state,
            )
        if self._chance.randrange(MILLION) >= self._sample_ppm:
            return None
        return Trace(self._fresh(128), self._fresh(64), "", is_sampled=True)

    def below(self, trace: Trace) -> Trace:
        """A span under this one."""
        return Trace(trace.trace_id, self._fresh(64), trace.span_id, trace.is_sampled, trace.state)

    def end(self, span: Span) -> None:
        """It is over."""
        if span.trace.is_sampled:
            self._sink.take(span)

    def _fresh(self, bits: int) -> str:
        return f"{self._chance.randrange(1, 1 << bits):0{bits // 4}x}"


def _is_valid(found: "re.Match[bytes]") -> bool:
    """Version ff and zeros are nothing; version 00 has nothing after its flags."""
    version, trace_id, span_id, _, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest):
        return False
    return not any(_NOTHING.fullmatch(one.decode()) for one in (trace_id, span_id))
