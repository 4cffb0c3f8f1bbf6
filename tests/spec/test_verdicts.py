"""Verdicts: one that proves a lie holds, one that does not is refused."""

import hashlib
import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_receipt, toy_verify

from penstock.spec.errors import BadMessage, BadSignature
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Order, Verdict
from penstock.spec.receipts import Outcome, Record
from penstock.spec.units import Units
from penstock.spec.verdicts import (
    CHOICES_MAX,
    TRANSCRIPT_BYTES_MAX,
    check_verdict,
    is_lie,
    recount,
)

JUDGE = ToyKey("judge")
ORDER = make_order()


def sse(*values: Any) -> bytes:
    lines = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
    return b"".join((*lines, b"data: [DONE]\n\n"))


def piece(content: str | None = None, *, finish: str | None = None, index: int = 0) -> Any:
    delta = {"role": "assistant"} if content is None else {"content": content}
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> Any:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


STREAM = sse(piece(), piece("Hel"), piece("lo"), piece("", finish="stop"))
"""Two pieces of content and an end: 3 events, 5 bytes, so at most 9 units may be claimed."""


def record(body: bytes, order: Order = ORDER, *, completion: int, **changes: Any) -> Record:
    """A record whose receipt signs this body and claims these completion units."""
    units = Units(prompt=20, cached=0, completion=completion, images=0, audio_ms=0)
    receipt = make_receipt(
        order,
        units=units,
        response_digest=hashlib.sha256(body).hexdigest(),
        response_bytes=len(body),
        **changes,
    )
    return Record(
        order=sign("order", order, GATEWAY),
        receipt=sign("receipt", receipt, MINER),
        checkpoint=None,
        countersign=None,
    )


def verdict(body: bytes, *, key: ToyKey = JUDGE, **changes: Any) -> Signed:
    said = Verdict(
        validator=JUDGE.identity,
        epoch=4,
        miner=MINER.identity,
        order_id=ORDER.order_id,
        transcript=b64encode(body).decode(),
    )
    return sign("verdict", replace(said, **changes), key)


def test_a_receipt_that_claims_more_than_the_stream_holds_is_a_proven_lie() -> None:
    found = check_verdict(verdict(STREAM), record(STREAM, completion=40), verify=toy_verify)
    assert (found.miner, found.epoch) == (MINER.identity, 4)


@pytest.mark.parametrize(("completion", "holds"), [(9, False), (10, True)])
def test_the_bound_is_five_percent_and_four_units_above_the_count(
    completion: int, *, holds: bool
) -> None:
    proof, exhibit = verdict(STREAM), record(STREAM, completion=completion)
    if holds:
        check_verdict(proof, exhibit, verify=toy_verify)
    else:
        with pytest.raises(BadMessage, match="bears out"):
            check_verdict(proof, exhibit, verify=toy_verify)


def test_a_claim_above_the_bodys_own_usage_is_a_lie_to_the_unit() -> None:
    body = sse(piece("a long enough answer"), usage(20, 10))
    check_verdict(verdict(body), record(body, completion=11), verify=toy_verify)
    with pytest.raises(BadMessage, match="bears out"):
        check_verdict(verdict(body), record(body, completion=10), verify=toy_verify)
    dearer_prompt = sse(piece("a long enough answer"), usage(19, 10))
    check_verdict(verdict(dearer_prompt), record(dearer_prompt, completion=10), verify=toy_verify)


def test_claiming_too_little_is_no_lie() -> None:
    body = sse(piece("a long enough answer"), usage(30, 15))
    with pytest.raises(BadMessage, match="bears out"):
        check_verdict(verdict(body), record(body, completion=1), verify=toy_verify)


def test_a_whole_answer_is_recounted_from_its_json() -> None:
    order = make_order(stream=False)
    body = json.dumps(
        {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "42"},
                    "finish_reason": "stop",
                }
            ]
        }
    ).encode()
    check_verdict(verdict(body), record(body, order, completion=30), verify=toy_verify)
    with pytest.raises(BadMessage, match="bears out"):
        check_verdict(verdict(body), record(body, order, completion=3), verify=toy_verify)


def test_embeddings_are_judged_by_their_usage_alone() -> None:
    order = make_order(stream=False, path="/v1/embeddings")
    body = json.dumps(
        {"data": [{"embedding": [0.25, 1.5]}], "usage": {"prompt_tokens": 9}}
    ).encode()
    check_verdict(verdict(body), record(body, order, completion=0), verify=toy_verify)
    honest = json.dumps({"data": [], "usage": {"prompt_tokens": 20}}).encode()
    with pytest.raises(BadMessage, match="bears out"):
        check_verdict(verdict(honest), record(honest, order, completion=0), verify=toy_verify)


def test_a_cancelled_stream_is_recounted_up_to_where_it_was_cut() -> None:
    body = STREAM[: STREAM.index(b"\n\ndata: [DONE]")]
    exhibit = record(body, completion=40, outcome=Outcome.CLIENT_CANCELLED)
    check_verdict(verdict(body), exhibit, verify=toy_verify)


def test_a_receipt_that_claims_nothing_cannot_lie() -> None:
    exhibit = record(STREAM, completion=0, outcome=Outcome.REFUSED)
    with pytest.raises(BadMessage, match="claims nothing"):
        check_verdict(verdict(STREAM), exhibit, verify=toy_verify)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"order_id": "o-2"}, "another order"),
        ({"miner": GATEWAY.identity}, "another order or miner"),
        ({"transcript": b64encode(STREAM + b" ").decode()}, "not what the receipt signed"),
        ({"transcript": "not base64!"}, "not base64"),
        ({"transcript": "A" * 200_000}, "too long"),
        ({"transcript": b64encode(b" " * (TRANSCRIPT_BYTES_MAX + 1)).decode()}, "too long"),
        ({"validator": GATEWAY.identity}, "not the validator"),
    ],
)
def test_a_verdict_that_does_not_fit_its_exhibit_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadMessage, match=reason):
        check_verdict(verdict(STREAM, **changes), record(STREAM, completion=40), verify=toy_verify)


def test_a_record_without_a_receipt_proves_nothing() -> None:
    exhibit = replace(record(STREAM, completion=40), receipt=None)
    with pytest.raises(BadMessage, match="no receipt"):
        check_verdict(verdict(STREAM), exhibit, verify=toy_verify)


def test_a_receipt_that_the_miner_did_not_sign_convicts_nobody() -> None:
    exhibit = record(STREAM, completion=40)
    assert exhibit.receipt is not None
    forged = replace(exhibit, receipt=replace(exhibit.receipt, signature="00"))
    with pytest.raises(BadSignature):
        check_verdict(verdict(STREAM), forged, verify=toy_verify)


def test_a_verdict_of_another_kind_is_refused() -> None:
    with pytest.raises(BadSignature):
        check_verdict(
            replace(verdict(STREAM), kind="report"),
            record(STREAM, completion=40),
            verify=toy_verify,
        )


def test_padding_with_empty_pieces_proves_nothing() -> None:
    padded = sse(*[piece("") for _ in range(50)], piece("hi"), piece("", finish="stop"))
    found = recount(padded, is_stream=True)
    assert (found.events, found.content_bytes) == (2, 2)


def test_ends_are_counted_once_a_choice_and_at_most_for_the_choices_there_can_be() -> None:
    twice = recount(sse(piece(finish="stop"), piece(finish="stop")), is_stream=True)
    assert twice.events == 1
    many = recount(sse(*(piece(finish="stop", index=n) for n in range(500))), is_stream=True)
    assert many.events == CHOICES_MAX


def test_tool_calls_reasoning_and_plain_text_are_content() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    body = sse(
        {"choices": [{"delta": {"tool_calls": [call]}}]},
        {"choices": [{"delta": {"reasoning_content": "é"}}]},
        {"choices": [{"text": "plain"}]},
    )
    found = recount(body, is_stream=True)
    assert (found.events, found.content_bytes) == (3, 3 + 2 + 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 60_000,
        b"9" * 5000,
        b'{"choices": {"0": 1}}',
        b'{"choices": [1, null]}',
        b'{"choices": [{"delta": 7, "finish_reason": null}], "usage": 3}',
        b'{"usage": {"prompt_tokens": 1.5, "completion_tokens": true}}',
        b'{"usage": {"prompt_tokens": NaN}}',
        b"[1, 2]",
    ],
)
def test_garbage_holds_nothing(body: bytes) -> None:
    for is_stream in (True, False):
        found = recount(b"data: " * is_stream + body, is_stream=is_stream)
        assert (found.events, found.content_bytes) == (0, 0)
        assert (found.prompt, found.completion) == (None, None)


def test_comments_and_other_fields_of_a_stream_are_skipped_and_lines_may_end_either_way() -> None:
    body = (
        b': penstock-checkpoint {"a":1}\r\n\r\nevent: x\r\ndata:' + json.dumps(piece("hi")).encode()
    )
    found = recount(body + b"\r\n\r\n: done\r\n", is_stream=True)
    assert (found.events, found.content_bytes) == (1, 2)


def test_data_on_several_lines_is_one_event() -> None:
    body = b'data: {"choices": [{"delta":\ndata: {"content": "hey"}}]}\n\n'
    assert recount(body, is_stream=True).content_bytes == 3


@given(st.lists(st.text(min_size=1), max_size=20), st.integers(0, 400))
def test_no_honest_count_is_ever_a_lie(texts: list[str], extra: int) -> None:
    """However an engine cuts its answer, a unit is at least a byte or an event of it."""
    body = sse(*(piece(text) for text in texts), piece("", finish="stop"))
    found = recount(body, is_stream=True)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    assert found.content_bytes == size
    claimed = min(size, len(texts) + 1 + extra)
    units = Units(prompt=1, cached=0, completion=claimed, images=0, audio_ms=0)
    assert not is_lie(units, found, is_counted=True)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_break_the_recount(body: bytes) -> None:
    for is_stream in (True, False):
        found = recount(body, is_stream=is_stream)
        assert min(found.events, found.content_bytes) >= 0
