"""Accounts: which openings an operator's ledger takes."""

from typing import Any

from penstock.kit.keys import Ed25519Key, verify
from penstock.spec.accounts import CREDIT_NANO_MAX, AccountOpening, check_opening
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.keys import parse_signed, sign

OPERATOR, STRANGER = Ed25519Key(b"o" * 32), Ed25519Key(b"s" * 32)
OPENING = {"account": "ann", "key_hash": "ab" * 32, "credit_nano": 5, "opening_id": "first"}


def run_check_opening(given: Any) -> Any:
    signed = parse_signed(given["signed"])
    return to_plain(check_opening(signed, operator=given["operator"], verify=verify))


def opened(key: Ed25519Key = OPERATOR, **changes: Any) -> Any:
    opening = from_plain(AccountOpening, {**OPENING, **changes})
    return {
        "signed": to_plain(sign("account", opening, key)),
        "operator": OPERATOR.identity,
    }


FUNCTIONS = {
    "check_opening": (
        run_check_opening,
        {
            "by_the_operator": opened(),
            "without_credit": opened(credit_nano=0),
            "by_a_stranger": opened(STRANGER),
            "negative_credit": opened(credit_nano=-1),
            "too_much_credit": opened(credit_nano=CREDIT_NANO_MAX + 1),
            "bad_account": opened(account="Ann"),
            "bad_key_hash": opened(key_hash="AB" * 32),
            "no_opening_id": opened(opening_id=""),
        },
    )
}
