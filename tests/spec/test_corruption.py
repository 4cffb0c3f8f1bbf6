"""One field changed anywhere in a signed record: it is refused, whoever signs the change."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import GATEWAY, ToyKey, toy_verify
from tests.spec.honest_records import Ending, Told, told

from penstock.spec.canon import digest, to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome, Record, is_valid, judge, parse_record

Path = tuple[str, ...]
PARTS = ("order", "receipt", "checkpoint", "countersign")
STRANGER = ToyKey("stranger")
OUTCOMES = [one.value for one in Outcome]


def leaves(value: dict[str, Any], before: Path = ()) -> Iterator[Path]:
    """The path of every value in a body that is no object itself."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, (*before, name))
        else:
            yield (*before, name)


def other_value(value: object, chance: int) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + (chance or 1)
    assert isinstance(value, str)
    if value in OUTCOMES:
        return OUTCOMES[(OUTCOMES.index(value) + 1 + chance % (len(OUTCOMES) - 1)) % len(OUTCOMES)]
    return value + "x"


def changed_body(signed: Signed, path: Path, chance: int) -> dict[str, Any]:
    body = deepcopy(signed.body)
    place = body
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = other_value(place[path[-1]], chance)
    return body


def resigned(kind: str, body: dict[str, Any], key: ToyKey) -> Signed:
    return Signed(kind, body, key.identity, key.sign(digest(kind, body)))


def is_accepted(record: Record) -> bool:
    return is_valid(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)


def parts_of(record: Record) -> list[str]:
    return [part for part in PARTS if getattr(record, part) is not None]


def with_part(record: Record, part: str, signed: Signed | None) -> Record:
    return replace(record, **{part: signed})  # type: ignore[arg-type] # one of PARTS


@given(told(), st.data(), st.integers(-5, 5))
def test_a_changed_field_under_the_old_signature_is_refused(
    one: Told, data: st.DataObject, chance: int
) -> None:
    part = data.draw(st.sampled_from(parts_of(one.record)))
    signed = getattr(one.record, part)
    path = data.draw(st.sampled_from(sorted(leaves(signed.body))))
    body = changed_body(signed, path, chance)
    assert is_accepted(one.record)
    assert not is_accepted(with_part(one.record, part, replace(signed, body=body)))


@given(told(), st.data(), st.sampled_from(["kind", "signer", "signature"]))
def test_an_envelope_that_says_anything_else_is_refused(
    one: Told, data: st.DataObject, field: str
) -> None:
    part = data.draw(st.sampled_from(parts_of(one.record)))
    signed = getattr(one.record, part)
    others = {
        "kind": [name for name in (*PARTS, "offer", "") if name != signed.kind],
        "signer": [STRANGER.identity, "", "toy:", signed.signer.upper()],
        "signature": ["", "00", signed.signature[::-1], signed.signature + "0"],
    }
    wrong = replace(signed, **{field: data.draw(st.sampled_from(others[field]))})
    assert not is_accepted(with_part(one.record, part, wrong))


@given(told(), st.data())
def test_the_right_words_signed_by_a_stranger_are_refused(one: Told, data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(parts_of(one.record)))
    signed = getattr(one.record, part)
    stolen = resigned(signed.kind, signed.body, STRANGER)
    assert not is_accepted(with_part(one.record, part, stolen))


@given(told(), st.data(), st.integers(1, 5))
def test_an_order_that_its_gateway_rewrites_later_fits_no_word_about_it(
    one: Told, data: st.DataObject, chance: int
) -> None:
    """A price or ceiling changed after the fact: the digest in every other word betrays it."""
    order = one.record.order
    path = data.draw(st.sampled_from(sorted(leaves(order.body))))
    rewritten = resigned("order", changed_body(order, path, chance), GATEWAY)
    assert not is_accepted(replace(one.record, order=rewritten))


@given(told(ending=Ending.COMPLETE), st.data(), st.integers(1, 5))
def test_a_receipt_that_its_miner_rewrites_later_is_not_the_one_countersigned(
    one: Told, data: st.DataObject, chance: int
) -> None:
    receipt = one.record.receipt
    assert receipt is not None
    path = data.draw(st.sampled_from(sorted(leaves(receipt.body))))
    rewritten = resigned("receipt", changed_body(receipt, path, chance), one.miner)
    assert not is_accepted(replace(one.record, receipt=rewritten))


@given(told(ending=Ending.UNSEEN), st.data(), st.integers(1, 10**6))
def test_a_miner_alone_cannot_bill_units_at_another_price(
    one: Told, data: st.DataObject, more: int
) -> None:
    """Without a gateway's word a miner may sign what it likes, but the charge follows the units."""
    receipt = one.record.receipt
    assert receipt is not None
    body = deepcopy(receipt.body)
    body["charge_nano"] += data.draw(st.sampled_from([more, -more]))
    assert not is_accepted(replace(one.record, receipt=resigned("receipt", body, one.miner)))


@given(told(ending=Ending.UNSEEN), st.integers(1, 10**6))
def test_a_miner_alone_cannot_bill_more_units_than_the_order_allows(one: Told, more: int) -> None:
    receipt = one.record.receipt
    assert receipt is not None
    for name, most in (
        ("prompt", one.order.prompt_max),
        ("completion", one.order.completion_max),
        ("images", one.order.images_max),
        ("audio_ms", one.order.audio_ms_max),
    ):
        body = deepcopy(receipt.body)
        body["units"][name] = most + more
        assert not is_accepted(replace(one.record, receipt=resigned("receipt", body, one.miner)))


@given(told(), st.integers(-(10**9), 10**9).filter(bool))
def test_a_gateway_that_charges_anything_else_is_refused(one: Told, off_nano: int) -> None:
    countersign = one.record.countersign
    if countersign is None:
        return
    body = deepcopy(countersign.body)
    body["charge_nano"] += off_nano
    wrong = resigned("countersign", body, GATEWAY)
    assert not is_accepted(replace(one.record, countersign=wrong))


@given(told(), st.integers(0, 3))
def test_a_gateway_that_tells_another_end_moves_only_what_that_end_allows(
    one: Told, chance: int
) -> None:
    """It may choose the word, not the sum: the charge it signed must fit, or all is refused."""
    countersign = one.record.countersign
    if countersign is None:
        return
    body = changed_body(countersign, ("outcome",), chance)
    told_so = replace(one.record, countersign=resigned("countersign", body, GATEWAY))
    if is_accepted(told_so):
        found = judge(told_so, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)
        assert found.charge_nano in {0, one.charge_nano}
        assert found.charge_nano == body["charge_nano"]


@given(told(1), told(2), st.sampled_from(["receipt", "checkpoint", "countersign"]))
def test_a_word_about_one_order_never_fits_another(one: Told, other: Told, part: str) -> None:
    borrowed = getattr(other.record, part)
    if borrowed is not None:
        assert not is_accepted(with_part(one.record, part, borrowed))


@given(told(ending=Ending.COMPLETE))
def test_a_receipt_left_out_or_left_alone_never_charges_the_payer(one: Told) -> None:
    assert not is_accepted(replace(one.record, receipt=None))
    unseen = replace(one.record, countersign=None, decision=None)
    found = judge(unseen, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)
    assert (found.charge_nano, found.earned_nano) == (0, one.charge_nano)
    with pytest.raises(SpecError):
        judge(
            replace(unseen, receipt=None),
            refusal_free_ms=LOCAL.refusal_free_ms,
            verify=toy_verify,
        )


@given(told(), st.data(), st.sampled_from([1.0, None, [], {}, "1", True]))
def test_a_value_of_another_type_is_refused_even_when_it_is_signed(
    one: Told, data: st.DataObject, wrong: Any
) -> None:
    part = data.draw(st.sampled_from(parts_of(one.record)))
    signed = getattr(one.record, part)
    numbers = [path for path in leaves(signed.body) if type(signed.body[path[0]]) is int]
    path = data.draw(st.sampled_from(sorted(numbers)))
    plain = to_plain(one.record)
    plain[part]["body"][path[0]] = wrong
    key = GATEWAY if part in {"order", "countersign"} else one.miner
    try:
        plain[part]["signature"] = key.sign(digest(signed.kind, plain[part]["body"]))
    except SpecError:
        return  # It has no canonical form at all, so nobody can sign it.
    assert not is_accepted(parse_record(plain))


@given(told(), st.data())
def test_a_field_more_or_less_is_refused_even_when_it_is_signed(
    one: Told, data: st.DataObject
) -> None:
    part = data.draw(st.sampled_from(parts_of(one.record)))
    signed = getattr(one.record, part)
    key = GATEWAY if part in {"order", "countersign"} else one.miner
    less = dict(signed.body)
    del less[data.draw(st.sampled_from(sorted(less)))]
    for body in (less, {**signed.body, "tip_nano": 1}):
        wrong = resigned(signed.kind, body, key)
        assert not is_accepted(with_part(one.record, part, wrong))
