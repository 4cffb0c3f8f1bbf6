"""Opening an account: the operator says that a key may spend from it, and adds money to it."""

from dataclasses import dataclass

from penstock.spec.errors import BadMessage, BadSignature
from penstock.spec.keys import Signed, Verify, open_signed
from penstock.spec.messages import is_name

CREDIT_NANO_MAX = 10**15
"""One million USD: more in one opening is a mistake."""

OPENING_ID_CHARS_MAX = 128
KEY_HASH_CHARS = 64
HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class AccountOpening:
    """The operator's order to its ledger: `key_hash` (hex SHA-256 of an API key) may spend from
    `account`, and `credit_nano` is added to it. Said twice with one `opening_id`, done once.
    """

    account: str
    key_hash: str
    credit_nano: int
    opening_id: str


def is_key_hash(text: str) -> bool:
    """64 lower-case hex digits."""
    return len(text) == KEY_HASH_CHARS and all(digit in HEX for digit in text)


def check_opening(signed: Signed, *, operator: str, verify: Verify) -> AccountOpening:
    """A sensible opening signed by this operator. Raises a SpecError."""
    opening = open_signed(AccountOpening, signed, kind="account", verify=verify)
    if signed.signer != operator:
        raise BadSignature(kind="account", signer=signed.signer, reason="not the operator")
    if not is_name(opening.account) or not is_key_hash(opening.key_hash):
        raise BadMessage(kind="account", reason="bad account name or key hash")
    if not 0 <= opening.credit_nano <= CREDIT_NANO_MAX:
        raise BadMessage(kind="account", reason="the credit is negative or too large")
    if not 0 < len(opening.opening_id) <= OPENING_ID_CHARS_MAX:
        raise BadMessage(kind="account", reason="bad opening id")
    return opening
