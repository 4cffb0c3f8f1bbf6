"""Entries: the bytes of a leaf, and the flat row that scoring reads of a judgement."""

from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.entries import Entry, EntryKind, leaf_bytes, parse_leaf, row_of, size_bucket
from penstock.spec.messages import Order
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Judgement, Outcome
from penstock.spec.units import FREE, NO_UNITS, Units

ORDER = Order(
    order_id="o-" + "00" * 16,
    gateway="ed25519:" + "01" * 32,
    miner="ed25519:" + "02" * 32,
    instance="m-1",
    chute="sha256:" + "cd" * 32,
    payer_tag="p",
    path="/v1/chat/completions",
    stream=True,
    request_digest="ab" * 32,
    price=FREE,
    prompt_max=100,
    completion_max=50,
    images_max=0,
    audio_ms_max=0,
    charge_max=99,
    issued_ms=1_000,
    deadline_ms=61_000,
    seed=7,
    nonce="n",
    decision_digest="",
)
TEN = Units(prompt=20, cached=5, completion=10, images=0, audio_ms=0)


def run_leaf_bytes(given: Any) -> str:
    kind = EntryKind(given["kind"])
    return leaf_bytes(Entry(kind=kind, entry_id=given["id"], body=given["body"])).decode()


def run_parse_leaf(given: str) -> Any:
    return to_plain(parse_leaf(given.encode()))


def run_row_of(given: Any) -> Any:
    return to_plain(row_of(from_plain(Judgement, given), LOCAL))


def run_size_bucket(given: int) -> int:
    return size_bucket(given)


def judged(outcome: Outcome, *, units: Units, nano: int, counts: bool) -> Any:
    return to_plain(
        Judgement(
            order=ORDER,
            outcome=outcome,
            units=units,
            charge_nano=0 if outcome is Outcome.GATEWAY_FAILED else nano,
            earned_nano=nano,
            ttft_us=9_000,
            total_us=100_000,
            counts=counts,
        )
    )


FUNCTIONS = {
    "leaf_bytes": (
        run_leaf_bytes,
        {
            "close": {"kind": "close", "id": "close/7", "body": {"epoch": 7, "at_ms": 1}},
            "fraction_is_refused": {"kind": "close", "id": "close/7", "body": {"epoch": 0.5}},
        },
    ),
    "parse_leaf": (
        run_parse_leaf,
        {
            "close": '{"body":{"at_ms":1,"epoch":7},"id":"close/7","kind":"close"}',
            "unknown_kind": '{"body":{},"id":"x","kind":"gift"}',
            "no_id": '{"body":{},"kind":"close"}',
            "another_spelling": '{"id":"x","body":{},"kind":"close"}',
        },
    ),
    "row_of": (
        run_row_of,
        {
            "complete": judged(Outcome.COMPLETE, units=TEN, nano=7, counts=True),
            "complete_and_unpaid_is_no_work": judged(
                Outcome.COMPLETE, units=TEN, nano=0, counts=True
            ),
            "cancelled": judged(Outcome.CLIENT_CANCELLED, units=TEN, nano=7, counts=False),
            "miner_failed": judged(Outcome.MINER_FAILED, units=NO_UNITS, nano=0, counts=True),
            "gateway_failed": judged(Outcome.GATEWAY_FAILED, units=TEN, nano=7, counts=False),
            "refused_late": judged(Outcome.REFUSED, units=NO_UNITS, nano=0, counts=True),
        },
    ),
    "size_bucket": (run_size_bucket, {f"of_{work}": work for work in (0, 1, 255, 256, 2**40)}),
}
