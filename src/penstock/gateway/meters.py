"""Every metric a gateway exports: its name, kind, meaning, and the values its labels can have.

This table is what docs/observe.md shows and what the tests hold the code to. Units stand last in the
names: `_ms`, `_bytes`, `_nano` (nano-USD). No label ever holds a model, an account, a key, an address
or any other text of a stranger's.
"""

from dataclasses import dataclass
from enum import Enum

from penstock.gateway.bodies import MODALITIES
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.policy import Fault
from penstock.gateway.tally import Tally
from penstock.kit.metrics import DROPPED, Metrics, Series, series
from penstock.kit.release import Release
from penstock.spec.receipts import Outcome
from penstock.spec.units import Units

OTHER = "other"
PATHS = tuple(sorted({*MODALITIES, *DIALECTS}))
"""Paths that are counted by name; all else is `other`."""
OUTCOMES = tuple(one.value for one in Outcome)
UPSTREAM = {
    "bad_endpoint": "unreachable",
    "ConnectFailed": "unreachable",
    "DeadlinePassed": "silent",
    "deadline": "silent",
    "PeerClosed": "cut",
    "no_receipt": "cut",
    "BadReply": "malformed",
    "BodyTooLarge": "malformed",
    "event_too_large": "malformed",
    "answer_too_large": "malformed",
    "unasked_stream": "malformed",
    "no_stream": "malformed",
    "gateway_stopped": "stopped",
    "cancelled": "cancelled",
    "cancel_unheard": "cancelled",
    "never_sent": "cancelled",
}
"""Why an attempt failed, in a few words; an engine's status is `status`, all else `other`."""
STATUS_PREFIX = "status_"
REASONS = tuple(sorted({*UPSTREAM.values(), "status", "proof", OTHER}))


class Kind(Enum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric. `labels` says of each label what it can be, in words for people."""

    name: str
    kind: Kind
    about: str
    labels: tuple[tuple[str, str], ...] = ()


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_PATH = ("path", "an inference path of docs/interfaces.md, or `other`")
METERS = (
    Meter(
        "gateway_requests_total",
        _C,
        "Requests answered, by how they ended.",
        (_PATH, ("outcome", "`complete`, `client_cancelled`, ... or an error code (errors.md)")),
    ),
    Meter(
        "gateway_orders_total",
        _C,
        "Orders closed; a request may take several.",
        (("outcome", "the law's outcomes"),),
    ),
    Meter("gateway_ttft_ms", _H, "From the order to the answer's first byte, of complete orders."),
    Meter("gateway_total_ms", _H, "From the order to the answer's last byte, of complete orders."),
    Meter("gateway_chunks_total", _C, "Events of streamed answers that passed."),
    Meter("gateway_response_bytes_total", _C, "Bytes of answers that passed."),
    Meter(
        "gateway_tokens_total",
        _C,
        "Tokens of complete orders, as the receipts say.",
        (("kind", "`prompt`, `cached`, `completion`"),),
    ),
    Meter("gateway_running", _G, "Requests under way."),
    Meter("gateway_batches_total", _C, "Batches ended.", (("status", "how, in OpenAI's words"),)),
    Meter("gateway_batches_running", _G, "Batches under way."),
    Meter(
        "gateway_batch_lines_total",
        _C,
        "Lines of batches answered, or put off to be asked again.",
        (("outcome", "`done`, `failed`, ..., `again`"),),
    ),
    Meter("gateway_file_bytes_total", _C, "Bytes of files.", (("way", "`in`, `out`"),)),
    Meter("gateway_failovers_total", _C, "Orders placed again at another instance."),
    Meter(
        "gateway_hedges_total",
        _C,
        "Requests also sent to a second instance, as the first was late.",
    ),
    Meter(
        "gateway_upstream_errors_total",
        _C,
        "Orders that failed at their miner.",
        (("reason", ", ".join(f"`{one}`" for one in REASONS)),),
    ),
    Meter(
        "gateway_receipts_rejected_total",
        _C,
        "Receipts that did not hold.",
        (("reason", "the faults of `gateway/policy.py`"),),
    ),
    Meter("gateway_breakers_opened_total", _C, "Times an instance was put aside for failing."),
    Meter("gateway_sessions", _G, "Sessions with miners."),
    Meter("gateway_sessions_lost_total", _C, "Sessions that a miner had forgotten."),
    Meter("gateway_tunnels", _G, "Reverse connections that miners have opened."),
    Meter("gateway_tunnel_nodes", _G, "Nodes of miners with such connections."),
    Meter("gateway_tunnels_opened_total", _C, "Reverse connections that were let in."),
    Meter(
        "gateway_tunnels_refused_total",
        _C,
        "Reverse connections that were not.",
        (("code", "`miner_unknown`, `too_many`, `busy`"),),
    ),
    Meter("gateway_unsealed", _G, "Orders that wait for a seal."),
    Meter(
        "gateway_seals_failed_total",
        _C,
        "Receipts whose seal did not come or did not hold; the payer got the charge back.",
        (("reason", "`late`, `unknown`, `forged`"),),
    ),
    Meter("gateway_seals_given_up_total", _C, "Orders let go unsealed when the gateway stopped."),
    Meter("gateway_records_waiting", _G, "Ended records that wait for the bus."),
    Meter("gateway_leases", _G, "Leases on accounts' money."),
    Meter("gateway_held_nano", _G, "Money held for running requests, in nano-USD."),
    Meter("gateway_instances", _G, "Instances in the directory."),
    Meter("gateway_chutes", _G, "Chutes in the directory."),
    Meter(
        "gateway_board_bad_total",
        _C,
        "Offers and manifests that did not hold.",
        (("kind", "`offers`, `chutes`"),),
    ),
    Meter(
        "gateway_build_info",
        _G,
        "Always 1; the labels say which release runs.",
        (("version", "one"), ("commit", "one, or empty")),
    ),
    Meter("gateway_workers", _G, "Worker processes that serve (with `workers` set)."),
    Meter("gateway_worker_crashes_total", _C, "Worker processes that ended by themselves."),
    Meter(
        "gateway_renewals_total",
        _C,
        "Renewals of all workers (SIGHUP, `penstock restart gateway`).",
        (("result", "`complete`, `failed`"),),
    ),
    Meter(
        "http_refused_total",
        _C,
        "What never became a request: malformed, too large, too slow, too many.",
        (("status", "an HTTP status"),),
    ),
    Meter(
        "task_crashes_total",
        _C,
        "Bugs met; the log has the traceback.",
        (("task", "a loop's name"),),
    ),
    Meter(DROPPED, _C, "Series beyond the bound of 2,000: a bug."),
)
ABOUT = {meter.name: meter.about for meter in METERS}
CHUNKS = series("gateway_chunks_total")
BYTES = series("gateway_response_bytes_total")
PROMPT, CACHED, COMPLETION = (
    series("gateway_tokens_total", kind=kind) for kind in ("prompt", "cached", "completion")
)
_requests: dict[tuple[str, str], Series] = {
    (path, outcome): series("gateway_requests_total", path=path, outcome=outcome)
    for path in (*PATHS, OTHER)
    for outcome in OUTCOMES
}


def count_request(metrics: Metrics, path: str, outcome: str) -> None:
    """One request has ended; `outcome` is the law's word, or the code of a refusal."""
    known = _requests.get((path, outcome))
    if known is not None:
        metrics.add(known)
        return
    path_class = path if path in MODALITIES or path in DIALECTS else OTHER
    metrics.count("gateway_requests_total", path=path_class, outcome=outcome)


class Passed:
    """What orders bring, counted for every one of them."""

    __slots__ = (
        "cached",
        "chunks",
        "complete",
        "completion",
        "orders",
        "prompt",
        "response_bytes",
        "total_ms",
        "ttft_ms",
    )

    def __init__(self, metrics: Metrics) -> None:
        self.chunks = metrics.counter(CHUNKS)
        self.response_bytes = metrics.counter(BYTES)
        self.prompt = metrics.counter(PROMPT)
        self.cached = metrics.counter(CACHED)
        self.completion = metrics.counter(COMPLETION)
        self.ttft_ms = metrics.histogram("gateway_ttft_ms")
        self.total_ms = metrics.histogram("gateway_total_ms")
        self.orders = {
            one.name: metrics.counter(series("gateway_orders_total", outcome=one.value))
            for one in Outcome
        }
        self.complete = self.orders[Outcome.COMPLETE.name]

    def ended(self, outcome: Outcome, tally: Tally) -> None:
        """An order has ended; what its answer brought, whoever pays for it."""
        if outcome is Outcome.COMPLETE:
            self.complete.n += 1
        else:
            self.orders[outcome.name].n += 1
        self.chunks.n += tally.events
        self.response_bytes.n += tally.body_bytes

    def served(self, units: Units, *, ttft_us: int, total_us: int) -> None:
        """A complete order: what it was paid for, and how long it took."""
        self.prompt.n += units.prompt
        self.cached.n += units.cached
        self.completion.n += units.completion
        self.ttft_ms.add(ttft_us // 1000)
        self.total_ms.add(total_us // 1000)


def upstream_reason(failure: str, fault: Fault) -> str:
    """Why an order failed at its miner, as one of REASONS."""
    if not failure:
        return "proof" if fault is not Fault.NONE else OTHER
    if failure.startswith(STATUS_PREFIX):
        return "status"
    return UPSTREAM.get(failure, OTHER)


def show_build(metrics: Metrics, release: Release) -> None:
    """Which release this is."""
    metrics.gauge("gateway_build_info", 1, version=release.version, commit=release.commit)
