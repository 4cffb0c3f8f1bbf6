"""W3C Trace Context, and who is traced."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.telemetry import MILLION, Span, SpanKind, Trace, Tracer

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01".encode()


class Kept(list[Span]):
    """A sink that keeps."""

    def take(self, span: Span) -> None:
        self.append(span)


def tracer(sample_ppm: int = 0, sink: Kept | None = None) -> Tracer:
    return Tracer(Kept() if sink is None else sink, random.Random(7), sample_ppm=sample_ppm)


def test_a_callers_trace_is_continued_and_passed_on() -> None:
    asking = tracer()
    trace = asking.begin(PARENT, b"vendor=1")
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.is_sampled) == (TRACE_ID, PARENT_ID, True)
    below = asking.below(trace)
    assert (below.trace_id, below.parent_id) == (TRACE_ID, trace.span_id)
    assert below.span_id not in {trace.span_id, PARENT_ID}
    lines = below.header_lines().decode()
    assert lines == f"\r\ntraceparent: 00-{TRACE_ID}-{below.span_id}-01\r\ntracestate: vendor=1"


def test_a_caller_that_does_not_sample_is_passed_on_and_not_recorded() -> None:
    sink = Kept()
    asking = tracer(MILLION, sink)
    trace = asking.begin(PARENT[:-2] + b"00", b"")
    assert trace is not None
    assert trace.header_lines().endswith(b"-00")
    asking.end(Span("x", SpanKind.SERVER, trace, 1, 2, {}))
    assert sink == []


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"garbage",
        PARENT.upper(),
        PARENT + b"-more",
        b"ff" + PARENT[2:],
        PARENT.replace(TRACE_ID.encode(), b"0" * 32),
        PARENT.replace(PARENT_ID.encode(), b"0" * 16),
        PARENT[:-1],
        PARENT + b"\n",
    ],
)
def test_what_is_no_traceparent_starts_a_trace_of_our_own_or_none(bad: bytes) -> None:
    assert tracer(0).begin(bad, b"vendor=1") is None
    fresh = tracer(MILLION).begin(bad, b"vendor=1")
    assert fresh is not None
    assert fresh.parent_id == ""
    assert fresh.state == b""
    assert fresh.trace_id != TRACE_ID


def test_a_later_version_may_say_more() -> None:
    trace = tracer().begin(b"01" + PARENT[2:] + b"-more", b"")
    assert trace is not None
    assert trace.trace_id == TRACE_ID


def test_a_tracestate_beyond_the_bound_is_left_out() -> None:
    for state in (b"a=" + b"x" * 512, b"a=1\r\nx-evil: 1"):
        trace = tracer().begin(PARENT, state)
        assert trace is not None
        assert trace.state == b""


def test_about_the_asked_share_is_traced() -> None:
    asking = tracer(MILLION // 10)
    count = sum(asking.begin(b"", b"") is not None for _ in range(10_000))
    assert 800 < count < 1_200


@given(st.binary(max_size=80), st.binary(max_size=20))
def test_no_header_of_a_strangers_breaks_the_line(parent: bytes, state: bytes) -> None:
    trace = tracer(MILLION).begin(parent, state)
    assert isinstance(trace, Trace)
    assert trace.header_lines().count(b"\n") == (2 if trace.state else 1)
