"""What the public log holds: one leaf per entry, and the flat row that scoring reads of a record.

A leaf's bytes are the canonical JSON of `{"kind": ..., "body": ...}`; its hash is RFC 6962's. The
position in the log decides which epoch an entry counts in, never a time somebody claims: epoch E is
everything after the `close` entry of E-1 up to and including the `close` entry of E.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from penstock.spec.canon import canonical, parse
from penstock.spec.errors import BadMessage
from penstock.spec.params import Params
from penstock.spec.receipts import Judgement
from penstock.spec.units import Units


class EntryKind(Enum):
    """The closed set of entries. Bodies are Signed messages except where noted."""

    CHARTER = "charter"
    MANIFEST = "manifest"
    RECORD = "record"  # a Record: order, receipt, checkpoint, countersign
    DISPUTE = "dispute"  # a Record that contradicts the one already logged for its order
    TARGETS = "targets"
    ROLL = "roll"
    VERDICT = "verdict"
    CLOSE = "close"  # a Close
    REPORT = "report"
    SETTLEMENT = "settlement"


@dataclass(frozen=True, slots=True)
class Close:
    """The end of an epoch in the log. `previous` is the epoch closed before it, -1 at first: with
    it nobody can leave a whole epoch out of a window.
    """

    epoch: int
    previous: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf. `entry_id` makes appending idempotent: an id is logged once."""

    kind: EntryKind
    entry_id: str
    body: dict[str, Any]


def leaf_bytes(entry: Entry) -> bytes:
    """The bytes that are hashed and published."""
    return canonical({"body": entry.body, "id": entry.entry_id, "kind": entry.kind.value})


def parse_leaf(data: bytes) -> Entry:
    """An Entry from leaf bytes. Raises NotCanonical or BadMessage."""
    value = parse(data)
    if not isinstance(value, dict) or set(value) != {"body", "id", "kind"}:
        raise BadMessage(kind="entry", reason="not a log entry")
    body, entry_id = value["body"], value["id"]
    kinds = {kind.value: kind for kind in EntryKind}
    if value["kind"] not in kinds or not isinstance(body, dict) or not isinstance(entry_id, str):
        raise BadMessage(kind="entry", reason="unknown kind, or a body or id of the wrong type")
    return Entry(kind=kinds[value["kind"]], entry_id=entry_id, body=body)


@dataclass(frozen=True, slots=True)
class Row:
    """A judged record, flat: the columns of a published segment and the whole input of scoring.

    `ns_per_unit` is total time per work unit, 0 when nothing was measured. `counts` and `success`
    are 0 or 1. `refused` counts refusals that stay free of penalty.
    """

    order_id: str
    chute: str
    instance: str
    miner: str
    outcome: str
    prompt: int
    cached: int
    completion: int
    charge_nano: int
    earned_nano: int
    work_units: int
    bucket: int
    ns_per_unit: int
    ttft_us: int
    total_us: int
    counts: int
    success: int


BUCKET_MAX = 24


def work_units(units: Units, params: Params) -> int:
    """Work units of an answer: cached prompt units count at their own (lower) rate."""
    return (
        params.work_prompt * (units.prompt - units.cached)
        + params.work_cached * units.cached
        + params.work_completion * units.completion
    )


def size_bucket(work: int) -> int:
    """Requests are compared with others of their size: the bit length of their work units."""
    return min(work.bit_length(), BUCKET_MAX)


def row_of(judgement: Judgement, params: Params) -> Row:
    """Flatten a judgement. Only complete answers that were paid for are work, and only they are
    timed: work that costs nobody anything could be made up without end, by whoever calls itself.
    """
    order, units = judgement.order, judgement.units
    success = judgement.outcome.value == "complete"
    work = work_units(units, params) if success and judgement.charge_nano else 0
    return Row(
        order_id=order.order_id,
        chute=order.chute,
        instance=order.instance,
        miner=order.miner,
        outcome=judgement.outcome.value,
        prompt=units.prompt,
        cached=units.cached,
        completion=units.completion,
        charge_nano=judgement.charge_nano,
        earned_nano=judgement.earned_nano,
        work_units=work,
        bucket=size_bucket(work),
        ns_per_unit=judgement.total_us * 1000 // work if work else 0,
        ttft_us=judgement.ttft_us,
        total_us=judgement.total_us,
        counts=int(judgement.counts),
        success=int(success),
    )
