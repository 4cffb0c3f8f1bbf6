"""Spans at a collector: the real SDK and exporter against a server that speaks OTLP."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from os import urandom

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from penstock.adapters.otel import OtelSink, Source, otlp_sink
from penstock.kit.telemetry import Span, SpanKind, Trace
from penstock.kit.wire.http import Request, Response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

HOST = "127.0.0.1"
DEADLINE_S = 30
SOURCE = Source("penstock-gateway", "gw", "1.2.3")
TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7", True)


@dataclass
class Collector:
    """Keeps what it is sent."""

    url: str = ""
    status: int = 200
    sent: list[ExportTraceServiceRequest] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        body = request.body
        if request.header("content-encoding") == "gzip":
            body = gzip.decompress(body)
        told = ExportTraceServiceRequest()
        told.ParseFromString(body)
        self.sent.append(told)
        return Response(self.status, b"", (("content-type", "application/x-protobuf"),))


@asynccontextmanager
async def collector(status: int = 200) -> AsyncIterator[Collector]:
    """One that listens."""
    made = Collector(status=status)
    routes = Routes()
    routes.add("POST", "/v1/traces", made.take)
    server = Server(Sockets(), routes, entropy=urandom)
    port = await server.start(HOST, 0)
    made.url = f"http://{HOST}:{port}/v1/traces"
    try:
        yield made
    finally:
        await server.close(0)


def a_span(error: str = "") -> Span:
    return Span(
        "chat tiny",
        SpanKind.CLIENT,
        TRACE,
        1_000_000,
        1_250_000,
        {"gen_ai.request.model": "tiny", "gen_ai.usage.input_tokens": 7},
        error,
    )


def sink_to(url: str, **bounds: int) -> OtelSink:
    return otlp_sink(url, SOURCE, **{"queue_max": 64, "export_ms": 10_000, **bounds})


async def test_a_span_arrives_with_its_ids_times_and_attributes() -> None:
    async with collector() as on:
        sink = sink_to(on.url)
        sink.take(a_span())
        sink.take(a_span("silent"))
        await sink.close()
    (told,) = on.sent
    (resource,) = told.resource_spans
    about = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert about["service.name"] == "penstock-gateway"
    assert about["service.instance.id"] == "gw"
    good, bad = resource.scope_spans[0].spans
    assert good.trace_id.hex() == TRACE.trace_id
    assert good.span_id.hex() == TRACE.span_id
    assert good.parent_span_id.hex() == TRACE.parent_id
    assert (good.start_time_unix_nano, good.end_time_unix_nano) == (10**9, 125 * 10**7)
    values = {one.key: one.value for one in good.attributes}
    assert values["gen_ai.request.model"].string_value == "tiny"
    assert values["gen_ai.usage.input_tokens"].int_value == 7
    assert good.status.code == 0
    assert bad.status.code == 2
    assert {one.key: one.value.string_value for one in bad.attributes}["error.type"] == "silent"


async def test_a_collector_that_is_away_or_refuses_costs_spans_and_nothing_else() -> None:
    sink = sink_to("http://127.0.0.1:1/v1/traces", export_ms=500)
    for _ in range(1_000):
        sink.take(a_span())
    async with asyncio.timeout(DEADLINE_S):
        await sink.close()
    async with collector(400) as on:
        refused = sink_to(on.url)
        refused.take(a_span())
        async with asyncio.timeout(DEADLINE_S):
            await refused.close()
    assert len(on.sent) == 1
