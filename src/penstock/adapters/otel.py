"""Spans to an OpenTelemetry collector, by OTLP over HTTP, with the SDK of the extra `penstock[otel]`.

The SDK's batches are sent by a thread of its own: `take` appends to a bounded queue, no more. Spans are
handed over finished, with the ids and times they already have.
"""

import asyncio
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from penstock.kit import telemetry

KINDS = {telemetry.SpanKind.SERVER: SpanKind.SERVER, telemetry.SpanKind.CLIENT: SpanKind.CLIENT}
SCOPE = "penstock"
BATCH_MAX = 512
DELAY_MS = 1_000
NS_PER_US = 1_000


@dataclass(frozen=True, slots=True)
class Source:
    """Who tells: OpenTelemetry's resource."""

    service_name: str
    instance_name: str
    version: str


class OtelSink:
    """Implements the kit's `SpanSink`. `queue_max` spans wait at most; `export_ms` bounds one call."""

    def __init__(
        self,
        exporter: SpanExporter,
        source: Source,
        *,
        queue_max: int,
        export_ms: int,
    ) -> None:
        self._export_ms = export_ms
        self._scope = InstrumentationScope(SCOPE, source.version)
        self._resource = Resource.create(
            {
                "service.name": source.service_name,
                "service.instance.id": source.instance_name,
                "service.version": source.version,
            }
        )
        self._batches = BatchSpanProcessor(
            exporter,
            max_queue_size=queue_max,
            schedule_delay_millis=DELAY_MS,
            max_export_batch_size=min(BATCH_MAX, queue_max),
            export_timeout_millis=export_ms,
        )

    def take(self, span: telemetry.Span) -> None:
        """Queue it; dropped when the queue is full."""
        attributes = dict(span.attributes)
        status = Status(StatusCode.UNSET)
        if span.error:
            attributes["error.type"] = span.error
            status = Status(StatusCode.ERROR)
        trace = span.trace
        self._batches.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(trace, trace.span_id),
                parent=_context(trace, trace.parent_id, is_remote=True)
                if trace.parent_id
                else None,
                resource=self._resource,
                attributes=attributes,
                kind=KINDS[span.kind],
                status=status,
                start_time=span.start_us * NS_PER_US,
                end_time=span.end_us * NS_PER_US,
                instrumentation_scope=self._scope,
            )
        )

    async def close(self) -> None:
        """Send what waits, for at most `export_ms`."""
        try:
            async with asyncio.timeout(self._export_ms / 1000):
                await asyncio.to_thread(self._batches.shutdown)
        except TimeoutError:
            return  # the thread is a daemon: the process ends without it


def otlp_sink(endpoint: str, source: Source, *, queue_max: int, export_ms: int) -> OtelSink:
    """A sink that posts to a collector: `http://collector:4318/v1/traces`."""
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=export_ms / 1000)
    return OtelSink(exporter, source, queue_max=queue_max, export_ms=export_ms)


def _context(trace: telemetry.Trace, span_id: str, *, is_remote: bool = False) -> SpanContext:
    state = TraceState.from_header([trace.state.decode("latin-1")]) if trace.state else None
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(1), state)
