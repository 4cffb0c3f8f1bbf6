"""The account of an answer does not depend on how the network cut it, and never exceeds the order."""

import hashlib
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MANIFEST, MINER, make_order, toy_verify
from tests.stations.miner.scripted_engine import chunk, usage_chunk

from penstock.kit.handshake import receipt_mac, split_vouched
from penstock.kit.sse import EventSplitter, parse_comment
from penstock.miner.answers import Whole, whole_answer
from penstock.miner.meter import Meter
from penstock.miner.normalise import Counts, StreamReader, read_counts
from penstock.miner.rewrite import Prepared
from penstock.miner.transcript import Transcript
from penstock.miner.word import Pen, Word
from penstock.spec.keys import Signed, open_signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import Outcome, charge_for, check_receipt
from penstock.spec.stream import Checkpoint, check_units, completion_units_max
from penstock.spec.units import NO_UNITS

DONE = b"data: [DONE]\n\n"
PLAIN = Prepared(body=b"", shows_usage=False, hidden=frozenset())
TEXTS = st.text(max_size=20)
EVENTS = st.lists(
    st.one_of(
        TEXTS.map(chunk),
        st.just(b": keep-alive\n\n"),
        st.builds(lambda text: chunk(text).replace(b"\n", b"\r\n"), TEXTS),
        st.builds(usage_chunk, st.integers(0, 200), st.integers(0, 200)),
    ),
    max_size=30,
)


def make_transcript(
    order: Order, *, checkpoint_events: int = 4, shown: Prepared = PLAIN
) -> Transcript:
    meter = Meter(order, signed_digest(sign("order", order, GATEWAY)), accept_ms=1_000)
    reader = StreamReader.of("tiny-chat", shown)
    pen = Pen(MINER)
    return Transcript(meter=meter, reader=reader, pen=pen, checkpoint_events=checkpoint_events)


def signed_of(word: Word) -> Signed:
    """The signed receipt that goes out."""
    return parse_signed(msgspec.json.decode(word.text))


def play(data: bytes, cuts: list[int], outcome: Outcome = Outcome.COMPLETE) -> tuple[bytes, Any]:
    """All the bytes that leave, and the signed receipt, when `data` comes in these pieces."""
    transcript = make_transcript(make_order())
    out = b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        out += transcript.feed(data[start:end], now_ms=1_500)
    last, word = transcript.end(outcome, now_ms=1_500)
    return out + last, signed_of(word)


@given(events=EVENTS, cuts=st.lists(st.integers(0, 10_000), max_size=40))
def test_any_cutting_of_the_engines_bytes_gives_the_same_bytes_and_receipt(
    events: list[bytes], cuts: list[int]
) -> None:
    data = b"".join([*events, chunk("end", finish="stop"), DONE])
    whole, cut = play(data, []), play(data, cuts)
    assert cut == whole
    out, receipt = cut
    order = make_order()
    checked = check_receipt(
        receipt, order, order_digest=receipt.body["order_digest"], verify=toy_verify
    )
    sent = b"".join(EventSplitter().feed(out)[:-1])
    assert checked.response_digest == hashlib.sha256(sent).hexdigest()
    assert checked.charge_nano == charge_for(order, checked.units) <= order.charge_max


@given(texts=st.lists(TEXTS, max_size=40))
def test_units_counted_by_events_never_exceed_what_the_bytes_can_hold(texts: list[str]) -> None:
    data = b"".join(chunk(text) for text in texts)
    out, receipt = play(data, [], Outcome.CLIENT_CANCELLED)
    content = sum(len(text.encode()) for text in texts)
    events = receipt.body["events"]
    assert receipt.body["units"]["completion"] == sum(1 for text in texts if text)
    assert receipt.body["units"]["completion"] <= completion_units_max(
        events=events, content_bytes=content
    )
    assert out.count(b"data: ") == events


@given(events=st.integers(1, 40), every=st.integers(1, 8))
def test_each_checkpoint_proves_the_bytes_before_it(events: int, every: int) -> None:
    transcript = make_transcript(make_order(), checkpoint_events=every)
    out = transcript.feed(b"".join(chunk(f"w{n}") for n in range(events)), now_ms=2_000)
    running, seen, found = hashlib.sha256(), 0, 0
    for event in EventSplitter().feed(out):
        parsed = parse_comment(event)
        if parsed is None:
            seen += 1
        else:
            signed = parse_signed(msgspec.json.decode(parsed[1]))
            said = open_signed(Checkpoint, signed, kind="checkpoint", verify=toy_verify)
            assert (said.digest, said.events) == (running.hexdigest(), seen)
            assert said.units.completion == seen
            found += 1
        running.update(event)
    assert found == events // every


def test_the_engines_own_count_beats_the_count_of_events() -> None:
    transcript = make_transcript(make_order())
    transcript.feed(chunk("two words at once") + usage_chunk(9, 4, cached=3), now_ms=1_100)
    units = transcript.meter.units()
    assert (units.prompt, units.cached, units.completion) == (9, 3, 4)


def test_a_cut_answer_without_counts_bills_no_prompt() -> None:
    transcript = make_transcript(make_order())
    transcript.feed(chunk("a") + chunk("") + chunk("b"), now_ms=1_100)
    _, word = transcript.end(Outcome.CLIENT_CANCELLED, now_ms=1_200)
    receipt = signed_of(word)
    units = receipt.body["units"]
    assert (units["prompt"], units["completion"]) == (0, 2)


@given(images=st.integers(0, 50), audio_ms=st.integers(0, 50), ceiling=st.integers(0, 20))
def test_images_and_audio_are_held_to_the_ceilings_of_the_order(
    images: int, audio_ms: int, ceiling: int
) -> None:
    order = make_order(images_max=ceiling, audio_ms_max=ceiling + 1)
    meter = Meter(order, "d", accept_ms=1_000)
    assert (meter.units().images, meter.units().audio_ms) == (0, 0)
    meter.count(Counts(prompt=1, cached=0, completion=0, images=images, audio_ms=audio_ms))
    units = meter.units()
    assert (units.images, units.audio_ms) == (min(images, ceiling), min(audio_ms, ceiling + 1))
    check_units(units, order)


def test_a_vouched_receipt_says_what_a_signed_one_says() -> None:
    receipt = Meter(make_order(), "d", accept_ms=1_000).receipt(Outcome.CLIENT_CANCELLED)
    signed, vouched = Pen(MINER).receipt(receipt), Pen(MINER, b"k" * 32).receipt(receipt)
    assert vouched.statement.body == signed.statement.body
    assert vouched.statement.digest == signed.statement.digest
    assert not vouched.statement.is_signed
    assert split_vouched(vouched.text) == (
        signed.statement.body,
        receipt_mac(b"k" * 32, signed.statement.digest),
    )
    assert vouched.header().encode() == vouched.text
    assert b"k" * 32 not in repr(Pen(MINER, b"k" * 32)).encode()


def test_failures_and_refusals_are_free_whatever_was_worked() -> None:
    for outcome in (Outcome.MINER_FAILED, Outcome.REFUSED):
        transcript = make_transcript(make_order())
        transcript.feed(chunk("a") + usage_chunk(5, 5), now_ms=1_100)
        _, word = transcript.end(outcome, now_ms=1_200)
        receipt = signed_of(word)
        assert receipt.body["charge_nano"] == 0
        assert set(receipt.body["units"].values()) == {0}


def test_a_clock_that_is_set_back_leaves_the_times_in_order() -> None:
    transcript = make_transcript(make_order())
    transcript.feed(chunk("a"), now_ms=1_500)
    transcript.feed(chunk("b"), now_ms=900)
    _, word = transcript.end(Outcome.COMPLETE, now_ms=1_400)
    receipt = signed_of(word)
    times = [receipt.body[name] for name in ("accept_ms", "first_ms", "last_ms")]
    assert times == [1_000, 1_500, 1_500]


def test_nothing_sent_is_still_a_valid_receipt() -> None:
    order = make_order()
    meter = Meter(order, signed_digest(sign("order", order, GATEWAY)), accept_ms=1_000)
    receipt = signed_of(Pen(MINER).receipt(meter.receipt(Outcome.CLIENT_CANCELLED)))
    checked = check_receipt(
        receipt, order, order_digest=receipt.body["order_digest"], verify=toy_verify
    )
    assert checked.units == NO_UNITS
    assert checked.response_digest == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, Counts(5, 0, 2)),
        (
            {"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}},
            Counts(5, 5, 0),
        ),
        ({"timings": {"prompt_n": 3, "cache_n": 4, "predicted_n": 2}}, Counts(7, 4, 2)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": True}}, Counts(0, 0, 0)),
        ({"usage": {"prompt_tokens": 2**60, "completion_tokens": 1.5}}, Counts(0, 0, 0)),
        ({"usage": None}, None),
        ({}, None),
    ],
)
def test_counts_are_read_from_every_dialect(fields: dict[str, Any], counts: Counts | None) -> None:
    assert read_counts(fields) == counts


def test_fields_that_only_we_asked_for_are_taken_out_again() -> None:
    hidden = Prepared(body=b"", shows_usage=True, hidden=frozenset({"usage", "timings"}))
    transcript = make_transcript(make_order(), shown=hidden)
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    out = transcript.feed(chunk("a", usage=usage, timings={"prompt_n": 5}), now_ms=1_100)
    assert b"usage" not in out
    assert b"timings" not in out
    assert transcript.meter.units().prompt == 5
    assert b'"usage"' in transcript.feed(usage_chunk(5, 1), now_ms=1_100)


def test_unknown_fields_ids_and_their_order_survive() -> None:
    transcript = make_transcript(make_order())
    event = b'data: {"z":1,"id":"chatcmpl-7","model":"m","a":[1.5,null],"choices":[]}\n\n'
    out = transcript.feed(event, now_ms=1_100)
    assert out == event.replace(b'"m"', b'"tiny-chat"')


@pytest.mark.parametrize("payload", [b"data: no json\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
def test_an_event_that_is_no_object_is_a_failure_of_the_engine(payload: bytes) -> None:
    transcript = make_transcript(make_order())
    assert transcript.feed(chunk("a") + payload + chunk("b"), now_ms=1_100).count(b"data:") == 1
    assert transcript.failed
    assert not transcript.is_whole


def test_a_whole_answer_that_is_no_object_is_none() -> None:
    assert whole(b"[]") is None
    assert whole(b'{"error": {}}') is None
    assert whole(b"\xff") is None
    assert whole(b'{"a":1}') == Whole(b'{"a":1}', "application/json", None)


def whole(data: bytes) -> Whole | None:
    return whole_answer(data, "application/json", prepared=Prepared(b""), manifest=MANIFEST)


@pytest.mark.parametrize(
    ("delta", "has_content"),
    [
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": ""}, False),
        ({"content": None}, False),
        ({"content": "a"}, True),
        ({"reasoning_content": "hm"}, True),
        ({"tool_calls": [{"index": 0}]}, True),
    ],
)
def test_only_events_with_a_part_of_the_answer_count(
    *, delta: dict[str, Any], has_content: bool
) -> None:
    transcript = make_transcript(make_order())
    body = {"choices": [{"index": 0, "delta": delta}]}
    transcript.feed(b"data: " + msgspec.json.encode(body) + b"\n\n", now_ms=1_100)
    assert transcript.meter.units().completion == int(has_content)


def of_choice(index: int, prompt: int, completion: int, *, usage: bool = False) -> bytes:
    """llama.cpp's event of one of several choices, or the usage that it sends after each."""
    body: dict[str, Any] = {"choices": [{"index": index, "text": "a", "finish_reason": None}]}
    body["timings"] = {"prompt_n": prompt, "cache_n": 1, "predicted_n": completion}
    if usage:
        body["choices"] = []
        body["usage"] = {"prompt_tokens": prompt + 1, "completion_tokens": completion}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


@pytest.mark.parametrize(
    ("asked", "units"),
    [({"prompt": ["a", "b"]}, (11, 2, 5)), ({"prompt": "a", "n": 2}, (5, 1, 5))],
)
def test_every_choice_of_llamas_stream_is_counted(
    asked: dict[str, Any], units: tuple[int, int, int]
) -> None:
    shown = Prepared(body=b"", hidden=frozenset({"timings"}), asked=asked)
    transcript = make_transcript(make_order(), shown=shown)
    for event in (of_choice(0, 4, 1), of_choice(1, 5, 1), of_choice(0, 4, 2), of_choice(1, 5, 3)):
        transcript.feed(event, now_ms=1_100)
    for event in (of_choice(0, 4, 2, usage=True), of_choice(1, 5, 3, usage=True)):
        last = transcript.feed(event, now_ms=1_100)
        found = transcript.meter.units()
        assert (found.prompt, found.cached, found.completion) == units
    assert b'"completion_tokens":5' in last, "the last usage that a client sees is the whole"


def test_an_index_that_nobody_asked_for_is_not_kept() -> None:
    transcript = make_transcript(make_order(), shown=Prepared(body=b"", asked={"n": 2}))
    for index in (0, 1, 2, -1, 10**9):
        transcript.feed(of_choice(index, 4, 3), now_ms=1_100)
    assert transcript.meter.units().completion == 6
