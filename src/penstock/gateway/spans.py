"""What a traced request tells OpenTelemetry: a span for the request, and one for each of its orders.

Names follow the semantic conventions for HTTP servers and for generative AI. Prompts, answers, keys,
accounts and addresses of callers are no attributes.
"""

from urllib.parse import urlsplit

from penstock.gateway.attempts import Attempt
from penstock.gateway.calls import CHAT_PATH, COMPLETIONS_PATH, MODALITIES
from penstock.gateway.policy import End, Proven
from penstock.kit.ports import Clock
from penstock.kit.telemetry import TRACEPARENT, TRACESTATE, Span, SpanKind, Trace, Tracer, Value
from penstock.kit.wire.http import Request
from penstock.spec.receipts import Outcome

PROVIDER = "penstock"
OPERATIONS = {CHAT_PATH: "chat", COMPLETIONS_PATH: "text_completion"}
GOOD = frozenset({Outcome.COMPLETE, Outcome.CLIENT_CANCELLED})
SERVER_ERROR = 500
US_PER_S = 1_000_000


class RequestSpans:
    """The spans of one request. Made only when it is traced."""

    __slots__ = (
        "_clock",
        "_orders",
        "_path",
        "_started_us",
        "_status",
        "_tracer",
        "_zero_us",
        "trace",
    )

    def __init__(self, tracer: Tracer, trace: Trace, *, clock: Clock, path: str) -> None:
        self._tracer = tracer
        self._clock = clock
        self._path = path
        self._status = 0
        self._orders: dict[Attempt, Trace] = {}
        self._started_us = clock.mono_us()
        self._zero_us = clock.now_ms() * 1000 - self._started_us
        self.trace = trace

    def order_begins(self, attempt: Attempt) -> bytes:
        """An order is placed: the header lines that continue the trace at its miner."""
        trace = self._orders[attempt] = self._tracer.below(self.trace)
        return trace.header_lines()

    def order_ended(self, attempt: Attempt, proven: Proven, end: End, *, total_us: int) -> None:
        """An order is closed."""
        self._status = attempt.status
        trace = self._orders.pop(attempt, None)
        if trace is None:
            return
        call = attempt.call
        operation = OPERATIONS.get(call.path) or MODALITIES[call.path].value
        is_good = end.outcome in GOOD
        self._tracer.end(
            Span(
                name=f"{operation} {call.model}",
                kind=SpanKind.CLIENT,
                trace=trace,
                start_us=self._zero_us + attempt.started_us,
                end_us=self._zero_us + attempt.started_us + total_us,
                attributes={
                    "gen_ai.operation.name": operation,
                    **_asked(attempt),
                    **_answered(attempt, proven, end),
                },
                error="" if is_good else attempt.failure or end.outcome.value,
            )
        )

    def ended(self, outcome: str, *, status: int = 0) -> None:
        """The request is answered, or refused with this status."""
        status = status or self._status
        attributes: dict[str, Value] = {
            "http.request.method": "POST",
            "http.route": self._path,
            "penstock.outcome": outcome,
        }
        if status and outcome != Outcome.CLIENT_CANCELLED.value:
            attributes["http.response.status_code"] = status
        is_error = status >= SERVER_ERROR or outcome == Outcome.MINER_FAILED.value
        self._tracer.end(
            Span(
                name=f"POST {self._path}",
                kind=SpanKind.SERVER,
                trace=self.trace,
                start_us=self._zero_us + self._started_us,
                end_us=self._zero_us + self._clock.mono_us(),
                attributes=attributes,
                error=outcome if is_error else "",
            )
        )


def spans_of(tracer: Tracer | None, request: Request, clock: Clock) -> RequestSpans | None:
    """The spans of a request, None if it is not traced."""
    if tracer is None:
        return None
    headers = request.headers
    trace = tracer.begin(headers.get(TRACEPARENT, b""), headers.get(TRACESTATE, b""))
    return None if trace is None else RequestSpans(tracer, trace, clock=clock, path=request.path)


def _asked(attempt: Attempt) -> dict[str, Value]:
    call, order = attempt.call, attempt.placed.order
    parts = urlsplit(attempt.instance.offer.endpoint)
    asked: dict[str, Value] = {
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": call.model,
        "gen_ai.request.stream": call.stream,
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        "penstock.order_id": order.order_id,
        "penstock.chute": order.chute,
        "penstock.miner": order.miner,
        "penstock.instance": order.instance,
    }
    if call.tokens_max:
        asked["gen_ai.request.max_tokens"] = call.tokens_max
    if call.seed is not None:
        asked["gen_ai.request.seed"] = call.seed
    if call.choices > 1:
        asked["gen_ai.request.choice.count"] = call.choices
    return asked


def _answered(attempt: Attempt, proven: Proven, end: End) -> dict[str, Value]:
    answered: dict[str, Value] = {
        "penstock.outcome": end.outcome.value,
        "penstock.charge_nano": end.charge_nano,
    }
    if attempt.status:
        answered["http.response.status_code"] = attempt.status
    if attempt.is_streaming and attempt.tally.body_bytes:
        first_us = attempt.first_us - attempt.started_us
        answered["gen_ai.response.time_to_first_chunk"] = first_us / US_PER_S
    receipt = proven.receipt
    if receipt is not None:
        units = receipt.units
        answered["gen_ai.usage.input_tokens"] = units.prompt
        answered["gen_ai.usage.output_tokens"] = units.completion
        answered["gen_ai.usage.cache_read.input_tokens"] = units.cached
    return answered
