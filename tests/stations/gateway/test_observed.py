"""What a gateway tells of itself: metrics that are documented and bounded, spans that continue a trace,
logs that hold neither prompts nor keys.
"""

import ast
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.test_otel import collector
from tests.kit.test_telemetry import PARENT, TRACE_ID, Kept
from tests.servers import RunningServer
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.test_app import SAID, booked, nats, stage
from tests.stations.gateway.test_renewal import exported
from tests.stations.gateway.world import CHAT, SECRET, URL, World, chat, play

from penstock.gateway.meters import METERS, OTHER, PATHS, REASONS, Kind, upstream_reason
from penstock.gateway.policy import Fault
from penstock.kit.metrics import Metrics, merged
from penstock.kit.telemetry import MILLION, Span, SpanKind, Tracer

__all__ = ["nats"]  # the fixture

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "penstock"
BY_NAME = {meter.name: meter for meter in METERS}
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?\d+(?:\.\d+)?)")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
COUNTING = frozenset({"count", "gauge", "histogram", "observe", "series"})


def linted(text: str) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample by family; asserts what `promtool check metrics` asks for."""
    found: dict[str, list[dict[str, str]]] = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in helped, f"{name} has a second HELP"
            assert len(line.split(" ", 3)[3]) > 1
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, f"{name} comes in two places"
            assert name in helped, f"{name} has no HELP before its TYPE"
            assert (kind == "counter") == name.endswith("_total"), name
            assert not name.endswith(("_sum", "_count", "_bucket")), name
            kinds[name] = kind
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            family = sample[1]
            if kinds.get(family) is None:
                family = re.sub(r"_(bucket|sum|count)$", "", family)
                assert kinds[family] == "histogram", line
            assert family == name, f"{family} does not stand under its TYPE"
            found.setdefault(family, []).append(dict(LABEL.findall(sample[2] or "")))
    return found


def check_meters(text: str) -> None:
    """Every family is in the table, with its kind and its labels, and these are of few values."""
    for family, samples in linted(text).items():
        meter = BY_NAME[family]
        assert f"# TYPE {family} {meter.kind.value}\n" in text
        allowed = {name for name, _ in meter.labels} | {"worker"}
        if meter.kind is Kind.HISTOGRAM:
            allowed.add("le")
        for labels in samples:
            assert set(labels) <= allowed, family
            for value in labels.values():
                assert re.fullmatch(r"[A-Za-z0-9_./+-]{0,40}", value), (family, value)


def named_in_source() -> set[str]:
    """The metric names that the gateway's code writes down."""
    names = set()
    for path in [
        *sorted((SOURCE / "gateway").rglob("*.py")),
        *sorted((SOURCE / "kit").rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            first = node.args[0]
            if (
                name in COUNTING
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                names.add(first.value)
    return {name for name in names if "_" in name and name == name.lower()}


def test_every_metric_of_the_code_is_in_the_table_and_on_the_page() -> None:
    page = (ROOT / "docs" / "observe.md").read_text()
    named = named_in_source()
    assert named <= set(BY_NAME)
    for meter in METERS:
        assert f"| `{meter.name}` | {meter.kind.value} |" in page
        assert (meter.kind is Kind.COUNTER) == meter.name.endswith("_total")
    dead = set(BY_NAME) - named - {"metrics_series_dropped_total"}
    assert not dead, "in the table, and nowhere in the code"


def test_what_is_exported_is_linted_documented_and_bounded() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        for number in range(3):
            assert (await world.post(chat())).status == 200
            await world.hear(chat(stream=True))
            await world.post(chat(model=f"nobody-{number}"))
            await world.post(b"{", secret=f"sk-penstock-{number}")
            await world.get(f"/v1/receipts/o-{number}")
            await world.post(chat(), path=f"/v1/strange/{number}")
        miner.scripts = [Script(act=Act.BREAK, status=500)]
        await world.post(chat())
        await world.hear(chat(stream=True), leave_after=1)
        await world.at_rest()
        text = (await world.get("/metrics")).body.decode()
        check_meters(text)
        found = linted(text)
        assert {one["path"] for one in found["gateway_requests_total"]} <= {*PATHS, OTHER}
        metrics = world.gateway.metrics
        assert metrics.value("gateway_requests_total", path=CHAT, outcome="complete") == 6
        assert metrics.value("gateway_requests_total", path=CHAT, outcome="client_cancelled") == 1
        assert metrics.value("gateway_requests_total", path=CHAT, outcome="model_not_found") == 3
        assert metrics.value("gateway_requests_total", path=CHAT, outcome="miner_failed") == 1
        assert metrics.value("gateway_upstream_errors_total", reason="status") >= 1
        assert metrics.value("gateway_tokens_total", kind="completion") > 0
        assert metrics.value("gateway_chunks_total") > 0

    play(scenario, has_sessions=True)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("status_500", "status"),
        ("status_" + "9" * 50, "status"),
        ("ConnectFailed", "unreachable"),
        ("a bug's name", OTHER),
        ("", "proof"),
    ],
)
def test_why_a_miner_failed_is_one_of_few_words(failure: str, reason: str) -> None:
    assert upstream_reason(failure, Fault.BAD_DIGEST) == reason
    assert reason in REASONS


def test_what_several_processes_export_is_one_text() -> None:
    texts = []
    for worker in ("gw", "gw-2"):
        metrics = Metrics(about={"a_total": "A.", "b_ms": "B."}, labels={"worker": worker})
        metrics.count("a_total", 3, kind="x")
        metrics.observe("b_ms", 5)
        texts.append(metrics.render())
    text = merged([*texts, b""]).decode()
    assert text.count("# TYPE a_total counter") == 1
    assert 'a_total{kind="x",worker="gw"} 3\na_total{kind="x",worker="gw-2"} 3\n' in text
    assert 'b_ms_count{worker="gw"} 1' in text
    assert 'metrics_series_dropped_total{worker="gw-2"} 0' in text


# Spans.


def watched(world: World, sample_ppm: int = MILLION) -> Kept:
    """Trace all requests of this world."""
    kept = Kept()
    world.gateway.tracer = Tracer(kept, random.Random(3), sample_ppm=sample_ppm)
    return kept


def of_kind(spans: Kept, kind: SpanKind) -> list[Span]:
    return [span for span in spans if span.kind is kind]


def test_a_request_continues_its_callers_trace_down_to_the_miner() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        spans = watched(world, 0)
        headers = (("authorization", f"Bearer {SECRET}"), ("traceparent", PARENT.decode()))
        began_us = world.clock.now_ms() * 1000
        reply = await world.client.call(
            "POST",
            URL + CHAT,
            headers=headers,
            body=json.dumps(chat(seed=5)).encode(),
            deadline_ms=60_000,
        )
        assert reply.status == 200
        (server,), (client,) = of_kind(spans, SpanKind.SERVER), of_kind(spans, SpanKind.CLIENT)
        assert server.trace.trace_id == client.trace.trace_id == TRACE_ID
        assert client.trace.parent_id == server.trace.span_id
        assert miner.traces == [f"00-{TRACE_ID}-{client.trace.span_id}-01"]
        assert began_us <= server.start_us <= client.start_us <= client.end_us <= server.end_us
        assert server.attributes["http.route"] == CHAT
        assert server.attributes["http.response.status_code"] == 200
        asked = client.attributes
        assert client.name == "chat tiny-chat"
        assert asked["gen_ai.operation.name"] == "chat"
        assert asked["gen_ai.request.model"] == "tiny-chat"
        assert asked["gen_ai.request.max_tokens"] == 16
        assert asked["gen_ai.request.seed"] == 5
        assert asked["server.address"] == "m1"
        assert asked["penstock.order_id"] == reply.header("x-penstock-order")
        copy = await world.get(f"/v1/receipts/{reply.header('x-penstock-order')}")
        used = json.loads(copy.body)["record"]["receipt"]["body"]["units"]
        assert asked["gen_ai.usage.input_tokens"] == used["prompt"] > 0
        assert asked["gen_ai.usage.output_tokens"] == used["completion"] > 0
        assert (server.error, client.error) == ("", "")

    play(scenario)


def test_every_order_of_a_failover_is_a_span_and_failures_say_why() -> None:
    async def scenario(world: World) -> None:
        first, second = await world.add_miner("m1"), await world.add_miner("m2")
        for miner in (first, second):
            miner.default = Script(act=Act.BREAK, status=500)
        spans = watched(world)
        assert (await world.post(chat())).status == 502
        orders = of_kind(spans, SpanKind.CLIENT)
        assert [one.error for one in orders] == ["status_500"] * 2
        (request,) = of_kind(spans, SpanKind.SERVER)
        assert request.error == "miner_failed"
        assert {one.trace.parent_id for one in orders} == {request.trace.span_id}
        assert not world.gateway.closing.watched

    play(scenario)


def test_streams_cancels_and_refusals_are_told() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        spans = watched(world)
        await world.hear(chat(stream=True))
        (stream,) = of_kind(spans, SpanKind.CLIENT)
        first_s = stream.attributes["gen_ai.response.time_to_first_chunk"]
        assert isinstance(first_s, float)
        assert 0 < first_s < (stream.end_us - stream.start_us) / 1_000_000
        spans.clear()
        await world.hear(chat(stream=True), leave_after=1)
        await world.at_rest()
        outcomes = {span.attributes["penstock.outcome"] for span in spans}
        assert outcomes == {"client_cancelled"}
        spans.clear()
        await world.post(chat(model="nobody"))
        (refused,) = spans
        assert refused.attributes["http.response.status_code"] == 404
        assert refused.attributes["penstock.outcome"] == "model_not_found"
        assert refused.error == "", "the caller's mistake is no error of ours"
        assert not world.gateway.closing.watched

    play(scenario)


def test_nothing_is_traced_or_passed_on_when_it_is_off_or_not_sampled() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await world.post(chat())
        spans = watched(world, 0)
        await world.post(chat())
        assert miner.traces == ["", ""]
        assert spans == []

    play(scenario)


def test_no_span_holds_a_prompt_an_answer_or_a_key() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        spans = watched(world)
        await world.post(chat())
        await world.hear(chat(stream=True))
        told = repr([replace(span) for span in spans])
        for secret in ("What does water do?", "turns", SECRET, "alice"):
            assert secret not in told

    play(scenario)


@pytest.mark.slow
async def test_a_gateway_process_sends_its_spans_to_a_collector(
    nats: RunningServer, tmp_path: Path
) -> None:
    async with collector() as there:
        telemetry = {"endpoint": there.url, "sample_ppm": MILLION}
        async with stage(nats, tmp_path, workers=1, telemetry=telemetry) as on:
            assert await on.ask() == SAID
            assert on.miner.traces[0].startswith("00-")
        sent = [
            (span.name, resource.resource)
            for told in there.sent
            for resource in told.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    assert {name for name, _ in sent} == {f"POST {CHAT}", "chat tiny-chat"}
    about = {one.key: one.value.string_value for one in sent[0][1].attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("penstock-gateway", "gw")


# Logs.


@pytest.mark.slow
async def test_neither_logs_nor_metrics_hold_prompts_answers_or_keys(
    nats: RunningServer, tmp_path: Path
) -> None:
    """A real process; what callers send, well-formed or not, carries marks that must not come back."""
    prompt, key, word = "MARKED-prompt-7f3a", "sk-penstock-MARKED-key-91bc", "MARKED-answer-5d2e"
    async with stage(nats, tmp_path) as on:
        on.ledger.open_account("marked", key, credit_nano=10**10)
        on.miner.default = Script(words=(word, " ", word))
        messages = [{"role": "user", "content": prompt}]
        async with on.client(key) as client:
            for is_streamed in (False, True):
                answer = await client.post(
                    "/chat/completions",
                    cast_to=object,
                    body={"model": "tiny-chat", "messages": messages, "max_tokens": 8},
                    options={"params": {"user": prompt}},
                )
                assert word in str(answer), is_streamed
        await booked(on.ledger, 2)
        on.miner.default = Script(act=Act.BREAK, status=500)
        for secret in (key, key + "-wrong", "Bearer " + key):
            for fields in ({}, {"messages": prompt}, {"model": prompt}, {"seed": prompt}):
                with pytest.raises(Exception, match=r"."):
                    await on.ask(secret=secret, extra_body={"messages": messages, **fields})
        metrics = await exported(on)
        on.miner.default = Script(words=(SAID,))
    log = (tmp_path / "gateway.log").read_text()
    assert "gateway.ready" in log
    for mark in ("MARKED", prompt, key, word):
        assert mark not in log
        assert mark not in metrics
    assert "gateway_requests_total" in metrics


def test_server_timing_tells_our_share_and_the_miners() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.delay_ms = 400
        reply = await world.post(chat())
        streamed = await world.hear(chat(stream=True))
        for timing in (reply.header("server-timing"), streamed.headers["server-timing"]):
            found = re.fullmatch(r"route;dur=(\d+\.\d{3}), miner;dur=(\d+\.\d{3})", timing)
            assert found is not None, timing
            assert float(found[1]) < 100
            assert float(found[2]) >= 400

    play(scenario)
