"""What a gateway sees of an answer, what it believes of it, and when it lets an instance rest."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import (
    MINER,
    PRICE,
    ToyKey,
    make_checkpoint,
    make_offer,
    make_order,
    make_receipt,
    toy_verify,
)
from tests.stations.gateway.placed import placed_of

from penstock.gateway.bodies import EMBEDDINGS_PATH, parse_body
from penstock.gateway.errors import GatewayError
from penstock.gateway.instances import FAILURES_MAX, REST_MS_MAX, REST_MS_MIN, Instance
from penstock.gateway.policy import End, Fault, Proven, end_of, parse_word, prove
from penstock.gateway.tally import WORD_BYTES_MAX, Tally
from penstock.kit.sse import comment
from penstock.spec.canon import encode, from_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Offer
from penstock.spec.receipts import Outcome, Receipt
from penstock.spec.stream import CHECKPOINT_COMMENT, RECEIPT_COMMENT
from penstock.spec.units import NO_UNITS, Units

EVENTS = (b'data: {"a":1}\n\n', b": keep-alive\n\n", b'data: {"b":2}\n\n', b"data: [DONE]\n\n")
BODY = b"".join(EVENTS)
UNITS = Units(prompt=20, cached=0, completion=3, images=0, audio_ms=0)
ORDER = make_order()
PLACED = placed_of(ORDER)
STRANGER = ToyKey("stranger")


def receipt(**changes: Any) -> Receipt:
    facts = {
        "units": UNITS,
        "response_digest": sha256(BODY).hexdigest(),
        "response_bytes": len(BODY),
        **changes,
    }
    return make_receipt(ORDER, **facts)


def word(name: str, kind: str, message: object, key: ToyKey = MINER) -> bytes:
    return comment(name, encode(sign(kind, message, key)))


def tally_of(*chunks: bytes) -> Tally:
    tally = Tally()
    for chunk in chunks:
        tally.feed(chunk)
    return tally


def judged(*chunks: bytes, is_cancelled: bool = False, is_error: bool = False) -> End:
    proven = prove(PLACED, tally_of(*chunks), is_error=is_error, verify=toy_verify)
    return end_of(PLACED, proven, is_cancelled=is_cancelled)


def with_receipt(message: Receipt, key: ToyKey = MINER) -> bytes:
    return BODY + word(RECEIPT_COMMENT, "receipt", message, key)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, 2_000), max_size=20))
def test_a_stream_is_counted_alike_however_it_is_cut(places: list[int]) -> None:
    data = with_receipt(receipt()) + b"data: behind\n\n"
    tally = Tally()
    passed_on = [tally.feed(part) for part in cut(data, places) if tally.receipt is None]
    assert b"".join(passed_on) == with_receipt(receipt())
    assert (tally.body_bytes, tally.events) == (len(BODY), 3)
    assert tally.digest == sha256(BODY).hexdigest()
    assert tally.receipt is not None


def test_half_an_event_is_neither_passed_on_nor_hashed() -> None:
    tally = Tally()
    assert tally.feed(EVENTS[0] + b"data: hal") == EVENTS[0]
    assert (tally.body_bytes, tally.digest) == (len(EVENTS[0]), sha256(EVENTS[0]).hexdigest())


def test_an_event_without_end_breaks_the_stream_instead_of_the_memory() -> None:
    tally = Tally()
    for _ in range(17):
        assert tally.feed(b"x" * 65_536) == b""
    assert "longer than" in tally.broken


def test_comments_and_frames_are_no_content() -> None:
    quiet = tally_of(b": " + b"x" * 1_000 + b"\n\n")
    assert (quiet.events, quiet.content_bytes) == (0, 0)
    assert tally_of(b"data: abc\n\n").content_bytes == len(b"abc")
    assert tally_of(b"\n\n" * 5).content_bytes == 0


def test_a_matching_receipt_is_paid() -> None:
    assert judged(with_receipt(receipt())) == End(
        Outcome.COMPLETE, receipt().charge_nano, Fault.NONE
    )
    assert receipt().charge_nano > 0


LIES: dict[str, tuple[Callable[[], bytes], Fault]] = {
    "no receipt": (lambda: BODY, Fault.MISSING),
    "no json": (lambda: BODY + comment(RECEIPT_COMMENT, b"{"), Fault.BAD_SIGNATURE),
    "deep json": (lambda: BODY + comment(RECEIPT_COMMENT, b"[" * 9_000), Fault.BAD_SIGNATURE),
    "no signature": (lambda: BODY + comment(RECEIPT_COMMENT, b"{}"), Fault.BAD_SIGNATURE),
    "a stranger's": (lambda: with_receipt(receipt(), STRANGER), Fault.BAD_SIGNATURE),
    "another order": (lambda: with_receipt(receipt(order_id="o-2")), Fault.BAD_SIGNATURE),
    "another price": (lambda: with_receipt(receipt(charge_nano=1)), Fault.BAD_SIGNATURE),
    "other bytes": (lambda: with_receipt(receipt(response_digest="00" * 32)), Fault.BAD_DIGEST),
    "more bytes": (lambda: with_receipt(receipt(response_bytes=len(BODY) + 1)), Fault.BAD_DIGEST),
    "invented units": (
        lambda: with_receipt(receipt(units=replace(UNITS, completion=50))),
        Fault.TOO_MANY_UNITS,
    ),
    "beyond the ceiling": (
        lambda: with_receipt(receipt(units=replace(UNITS, completion=51))),
        Fault.BAD_SIGNATURE,
    ),
    "it failed": (
        lambda: with_receipt(receipt(outcome=Outcome.MINER_FAILED)),
        Fault.NOT_COMPLETE,
    ),
}


@pytest.mark.parametrize(("data", "fault"), LIES.values(), ids=LIES.keys())
def test_what_a_receipt_may_not_say_is_not_paid(data: Callable[[], bytes], fault: Fault) -> None:
    assert judged(data()) == End(Outcome.MINER_FAILED, 0, fault)


def test_units_for_an_error_are_not_paid_and_an_honest_error_is_complete() -> None:
    assert judged(with_receipt(receipt()), is_error=True).fault is Fault.UNITS_FOR_ERROR
    honest = judged(with_receipt(receipt(units=NO_UNITS)), is_error=True)
    assert honest == End(Outcome.COMPLETE, 0, Fault.NONE)


def test_a_word_that_is_too_long_for_a_record_is_none() -> None:
    text = encode(sign("receipt", receipt(), MINER))
    assert parse_word(text) is not None
    assert parse_word(text[:-1] + b" " * WORD_BYTES_MAX + b"}") is None
    assert parse_word(b'"\xff"') is None


def marked(key: ToyKey = MINER, **changes: Any) -> bytes:
    """The first event and a checkpoint over it."""
    facts = {
        "body_bytes": len(EVENTS[0]),
        "events": 1,
        "digest": sha256(EVENTS[0]).hexdigest(),
        "units": replace(UNITS, completion=1),
        **changes,
    }
    return EVENTS[0] + word(CHECKPOINT_COMMENT, "checkpoint", make_checkpoint(ORDER, **facts), key)


def test_a_client_that_left_pays_for_the_proven_prefix_only() -> None:
    prefix = judged(marked() + EVENTS[2], is_cancelled=True)
    whole = judged(with_receipt(receipt()), is_cancelled=True)
    assert prefix.outcome is whole.outcome is Outcome.CLIENT_CANCELLED
    assert 0 < prefix.charge_nano < whole.charge_nano
    assert judged(EVENTS[0], is_cancelled=True).charge_nano == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"body_bytes": 1},
        {"digest": "00" * 32},
        {"units": replace(UNITS, completion=50)},
        {"order_id": "o-2"},
        {"order_digest": "00" * 32},
        {"events": -1},
    ],
)
def test_a_checkpoint_that_does_not_hold_proves_nothing(changes: dict[str, Any]) -> None:
    assert judged(marked(**changes), is_cancelled=True).charge_nano == 0


def test_a_checkpoint_of_a_stranger_proves_nothing() -> None:
    assert judged(marked(STRANGER), is_cancelled=True).charge_nano == 0


def test_the_last_checkpoint_decides_even_when_it_is_the_worse_one() -> None:
    data = marked() + word(CHECKPOINT_COMMENT, "checkpoint", make_checkpoint(ORDER))
    assert judged(data, is_cancelled=True).charge_nano == 0


def test_a_receipt_that_lies_stays_on_record_as_evidence() -> None:
    proven: Proven = prove(
        PLACED,
        tally_of(with_receipt(receipt(response_digest="00" * 32))),
        is_error=False,
        verify=toy_verify,
    )
    assert proven.told is not None
    assert not proven.is_match


def instance(**changes: Any) -> Instance:
    signed: Signed = make_offer(**changes)
    return Instance(offer=from_plain(Offer, signed.body))


def fail(one: Instance, times: int, *, now_ms: int = 0) -> list[bool]:
    opened = []
    for _ in range(times):
        one.started()
        opened.append(one.failed(now_ms))
    return opened


def test_an_instance_rests_after_three_failures_in_a_row_and_not_before() -> None:
    one = instance()
    assert fail(one, FAILURES_MAX - 1) == [False] * (FAILURES_MAX - 1)
    assert one.rests_until_ms == 0
    assert fail(one, 1, now_ms=100) == [True]
    assert one.rests_until_ms == 100 + REST_MS_MIN


def test_a_success_between_failures_forgets_them() -> None:
    one = instance()
    for _ in range(5):
        assert not any(fail(one, FAILURES_MAX - 1))
        one.started()
        one.succeeded(total_us=1_000, work=10)
    assert one.failures == 0


def test_a_half_open_breaker_lets_one_trial_through_at_a_time() -> None:
    one = instance()
    fail(one, FAILURES_MAX)
    after = REST_MS_MIN + 1
    assert one.rests_until_ms < after
    one.started()
    assert one.rests_until_ms > after
    one.succeeded(total_us=5, work=1)
    assert one.failures == 0
    one.started()
    assert one.rests_until_ms < after


def test_each_failed_trial_doubles_the_rest_up_to_its_bound() -> None:
    one = instance()
    fail(one, FAILURES_MAX)
    rests = []
    for _ in range(5):
        fail(one, 1)
        rests.append(one.broken_until_ms)
    assert rests == [10_000, 20_000, REST_MS_MAX, REST_MS_MAX, REST_MS_MAX]


def test_a_refusal_says_nothing_about_an_instance() -> None:
    one = instance()
    fail(one, FAILURES_MAX - 1)
    one.started()
    one.ended()
    assert one.failures == FAILURES_MAX - 1
    assert one.running == 0


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), max_size=30))
def test_the_measured_pace_stays_between_the_fastest_and_the_slowest(
    answers: list[tuple[int, int]],
) -> None:
    one = instance()
    paces = [max(1, total_us * 1_000 // work) for total_us, work in answers if work]
    for total_us, work in answers:
        one.started()
        one.succeeded(total_us=total_us, work=work)
    if paces:
        assert min(paces) <= one.pace_ns <= max(paces)
    else:
        assert one.pace_ns == 0


def test_an_order_that_ends_twice_is_a_bug() -> None:
    one = instance()
    one.started()
    one.ended()
    with pytest.raises(AssertionError, match="ends once"):
        one.ended()


@pytest.mark.parametrize("given_input", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_inputs_of_embeddings_go_on_untouched(given_input: object) -> None:
    body = json.dumps({"model": "m", "input": given_input, "dimensions": 8, "n": 10**30}).encode()
    call = parse_body(EMBEDDINGS_PATH, body)
    assert call.body is body
    assert (call.tokens_max, call.choices) == (0, 1)


FIELDS = ("messages", "prompt", "input", "n", "best_of", "max_tokens", "stream", "x")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", EMBEDDINGS_PATH]),
    st.fixed_dictionaries(
        {"model": JSON},
        optional=dict.fromkeys(
            ("messages", "prompt", "input", "n", "best_of", "max_tokens", "stream", "x"), JSON
        ),
    ),
)
def test_a_body_is_read_or_refused_and_never_crashed_on(path: str, fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    try:
        call = parse_body(path, body)
    except GatewayError as error:
        assert str(error)
        return
    assert 1 <= call.choices <= 128
    assert call.body == body
    assert call.model == fields["model"]


def test_a_price_in_an_offer_is_the_price_of_the_order() -> None:
    assert ORDER.price == PRICE == from_plain(Offer, make_offer().body).price
