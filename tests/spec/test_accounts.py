"""Opening an account: only the operator, and only what makes sense."""

from typing import Any

import pytest
from tests.makers import OWNER, ToyKey, toy_verify

from penstock.spec.accounts import (
    CREDIT_NANO_MAX,
    OPENING_ID_CHARS_MAX,
    AccountOpening,
    check_opening,
    is_key_hash,
)
from penstock.spec.errors import BadMessage, BadSignature
from penstock.spec.keys import Signed, sign

OPERATOR = OWNER


def opened(key: ToyKey = OPERATOR, **changes: Any) -> Signed:
    values: dict[str, Any] = {
        "account": "ann",
        "key_hash": "ab" * 32,
        "credit_nano": 5,
        "opening_id": "first",
        **changes,
    }
    return sign("account", AccountOpening(**values), key)


def check(signed: Signed) -> AccountOpening:
    return check_opening(signed, operator=OPERATOR.identity, verify=toy_verify)


def test_an_opening_of_the_operator_is_taken() -> None:
    assert check(opened()).account == "ann"


@pytest.mark.parametrize("credit", [0, CREDIT_NANO_MAX])
def test_the_bounds_of_the_credit_are_allowed(credit: int) -> None:
    assert check(opened(credit_nano=credit)).credit_nano == credit


def test_nobody_else_opens_accounts() -> None:
    with pytest.raises(BadSignature) as caught:
        check(opened(ToyKey("stranger")))
    assert caught.value.reason == "not the operator"


def test_a_forged_opening_is_refused() -> None:
    signed = opened()
    forged = Signed(signed.kind, {**signed.body, "credit_nano": 6}, signed.signer, signed.signature)
    with pytest.raises(BadSignature):
        check(forged)


@pytest.mark.parametrize(
    "changes",
    [
        {"account": ""},
        {"account": "Ann"},
        {"account": "a" * 65},
        {"key_hash": "ab"},
        {"key_hash": "AB" * 32},
        {"credit_nano": -1},
        {"credit_nano": CREDIT_NANO_MAX + 1},
        {"opening_id": ""},
        {"opening_id": "x" * (OPENING_ID_CHARS_MAX + 1)},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        check(opened(**changes))


@pytest.mark.parametrize(("text", "answer"), [("0f" * 32, True), ("0g" * 32, False), ("", False)])
def test_a_key_hash_is_64_hex_digits(text: str, answer: bool) -> None:
    assert is_key_hash(text) is answer
