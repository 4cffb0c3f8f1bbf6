"""Events that differ in their text alone: passed on unread, and not one byte or unit is another."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import MINER, make_order
from tests.properties import in_full

from penstock.miner.meter import Meter
from penstock.miner.normalise import StreamReader
from penstock.miner.rewrite import Prepared
from penstock.miner.stencil import Run, Told, learn
from penstock.miner.transcript import Transcript
from penstock.miner.word import Pen
from penstock.spec.receipts import Outcome

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
COMPACT, SPACED = (",", ":"), (", ", ": ")
SLIM = Prepared(body=b"", shows_usage=False, hidden=frozenset({"usage", "timings"}))
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["a", " b", '"', "\\", "\n", "\t", "\x00", "é", "\ud83d\ude00", "data: ", "}}]", "/"]
    ),
)


def spelled(fields: dict[str, Any], separators: tuple[str, str], *, ascii_only: bool) -> bytes:
    text = json.dumps(fields, separators=separators, ensure_ascii=ascii_only)
    return b"data: %b\n\n" % text.encode("utf-8", "surrogatepass")


def event(dialect: str, number: int, text: str) -> dict[str, Any]:
    """One event of an answer as these engines tell it."""
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    fields: dict[str, Any] = {"id": "c-1", "object": "chat.completion.chunk", "model": "engine"}
    usage = {"prompt_tokens": 7, "total_tokens": 7 + number, "completion_tokens": number}
    match dialect:
        case "vllm":
            return {**fields, "choices": [{**choice, "logprobs": None}], "usage": usage}
        case "sglang":
            details = {"prompt_tokens_details": {"cached_tokens": 3}}
            return {**fields, "choices": [choice], "usage": {**usage, **details}}
        case "llamacpp":
            timings = {"cache_n": 2, "prompt_n": 5, "prompt_ms": 1.5e-3, "predicted_n": number}
            return {"choices": [choice], **fields, "timings": timings}
        case "completion":
            whole = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
            return {**fields, "choices": [whole], "usage": None}
        case _:
            return {**fields, "choices": [choice]}


def read(prepared: Prepared, reads: list[bytes], *, with_stencil: bool) -> tuple[bytes, Any, int]:
    """(the client's bytes with checkpoints, the receipt, events passed on unread)."""
    reader = StreamReader.of("chute", prepared)
    if not with_stencil:
        reader._lessons = 1 << 20
    meter = Meter(make_order(), "d" * 64, accept_ms=1)
    transcript = Transcript(meter, reader, Pen(MINER), checkpoint_events=4)
    out = b"".join(transcript.feed(data, now_ms=2) for data in reads)
    unread = 0
    if with_stencil:
        again = StreamReader.of("chute", prepared)
        steps = [step for data in reads for step in again.feed(data)]
        unread = sum(len(step) for step in steps if isinstance(step, Run))
    return out, meter.receipt(Outcome.COMPLETE), unread


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]


@settings(max_examples=in_full(200))
@given(
    dialect=st.sampled_from(["openai", "vllm", "sglang", "llamacpp", "completion"]),
    separators=st.sampled_from([COMPACT, SPACED]),
    ascii_only=st.booleans(),
    texts=st.lists(TEXTS.filter(lambda one: one.isprintable() or len(one) == 1), max_size=30),
    places=st.lists(st.integers(0, 10_000), max_size=12),
    is_bare=st.booleans(),
)
def test_the_same_bytes_units_and_checkpoints_come_out_whether_events_were_read_or_not(
    *,
    dialect: str,
    separators: tuple[str, str],
    ascii_only: bool,
    texts: list[str],
    places: list[int],
    is_bare: bool,
) -> None:
    path = COMPLETIONS if dialect == "completion" else CHAT
    prepared = replace(Prepared(body=b"") if is_bare else SLIM, path=path)
    data = b"".join(
        spelled(event(dialect, number, text), separators, ascii_only=ascii_only)
        for number, text in enumerate(texts, 1)
        if text.isascii() or ascii_only or not any("\ud800" <= c <= "\udfff" for c in text)
    )
    data += b"data: [DONE]\n\n"
    plain = read(prepared, [data], with_stencil=False)[:2]
    assert read(prepared, [data], with_stencil=True)[:2] == plain
    assert read(prepared, cut(data, places), with_stencil=True)[:2] == plain


@pytest.mark.parametrize("dialect", ["openai", "vllm", "sglang", "llamacpp", "completion"])
@pytest.mark.parametrize("separators", [COMPACT, SPACED])
def test_all_events_of_a_plain_answer_but_the_first_are_passed_on_unread(
    dialect: str, separators: tuple[str, str]
) -> None:
    path = COMPLETIONS if dialect == "completion" else CHAT
    words = [f" word{number}" for number in range(50)]
    data = b"".join(
        spelled(event(dialect, number, word), separators, ascii_only=True)
        for number, word in enumerate(words, 1)
    )
    assert read(replace(SLIM, path=path), [data], with_stencil=True)[2] == 49


def test_events_cut_by_the_network_are_put_together_before_they_are_compared() -> None:
    data = b"".join(
        spelled(event("vllm", number, "word"), COMPACT, ascii_only=True) for number in range(1, 51)
    )
    reads = [data[at : at + 100] for at in range(0, len(data), 100)]
    assert read(SLIM, reads, with_stencil=True)[2] == 49


@pytest.mark.parametrize(
    "later",
    [
        b'{"error":{"message":"out of memory"}}',
        b'{"id":"c-1","model":"engine","choices":[{"index":0,"delta":{"content":"a}}]}',
        b'{"id":"c-1","model":"engine","choices":[{"index":0,"delta":{"content":"\xff"}}]}',
        b'{"id":"c-1","model":"engine","choices":[{"index":0,"delta":{"content":"\x01"}}]}',
    ],
)
def test_an_event_that_breaks_off_or_is_an_error_fails_the_stream_as_ever(later: bytes) -> None:
    first = (
        b'data: {"id":"c-1","model":"engine","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    )
    reader = StreamReader.of("chute", SLIM)
    assert not any(isinstance(one, Run) for one in reader.feed(first))
    steps = reader.feed(first + b"data: %b\n\n" % later)
    assert isinstance(steps[0], Run)
    assert not isinstance(steps[-1], Run)
    assert steps[-1].failed


def test_counts_that_are_no_numbers_are_read_in_full() -> None:
    reader = StreamReader.of("chute", SLIM)
    for usage in ({"prompt_tokens": 1, "completion_tokens": 1}, {"prompt_tokens": "many"}):
        fields = {**event("openai", 1, "a"), "usage": usage}
        steps = reader.feed(spelled(fields, COMPACT, ascii_only=True))
        assert not isinstance(steps[0], Run)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'data: {"content":"a","b":{"content":"a"}}\n\n', b'data: {"content":"a"}\n\n'),
        (b'data: {"content":"a"}\n\n', b'data: {"content":"a","b":{"content":"a"}}\n\n'),
        (b'data: {"content":"\\u0061"}\n\n', b'data: {"content":"a"}\n\n'),
        (b'data: {"content":\ndata: "a"}\n\n', b'data: {"content":"a"}\n\n'),
        (b'data: {"content":"a"}\r\n\r\n', b'data: {"content":"a"}\n\n'),
        (b'event: x\ndata: {"content":"a"}\n\n', b'data: {"content":"a"}\n\n'),
    ],
)
def test_nothing_is_learned_where_the_text_cannot_be_told_from_the_rest(
    raw: bytes, shown: bytes
) -> None:
    assert learn(raw, Told(shown, "content", "a", "")) is None


def test_nothing_is_learned_of_counts_that_the_client_sees() -> None:
    raw = b'data: {"content":"a","usage":{"prompt_tokens":1}}\n\n'
    assert learn(raw, Told(raw, "content", "a", "usage")) is None
    assert learn(raw, Told(b'data: {"content":"a"}\n\n', "content", "a", "usage")) is not None
    nested = b'data: {"content":"a","usage":{"a":"text"}}\n\n'
    assert learn(nested, Told(b'data: {"content":"a"}\n\n', "content", "a", "usage")) is None


def test_a_stream_of_many_kinds_of_events_gives_up_learning() -> None:
    reader = StreamReader.of("chute", SLIM)
    for number in range(40):
        fields = {**event("openai", 1, "a"), "id": f"c-{number}"}
        assert not isinstance(reader.feed(spelled(fields, COMPACT, ascii_only=True))[0], Run)
    assert reader._lessons == 8
