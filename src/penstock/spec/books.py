"""The books: double entry in nano-USD, in which money is never made, lost or promised twice.

Accounts are `payer/<account>`, `miner/<identity>`, `operator`, `pool` (the buyback share, paid out
by score each epoch), `reserve` (what nobody earned) and `mint` (the outside world: the only account
that may go below zero). All balances always add up to zero. A hold sets money of one account aside;
it may be extended, is captured in parts, and released once. Every operation has an id: the same id
with the same content changes nothing, with other content it is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import assert_never

from penstock.spec.canon import digest, to_plain
from penstock.spec.errors import (
    BadPosting,
    HoldExceeded,
    IdReused,
    Overdraft,
    Unbalanced,
    UnknownHold,
)
from penstock.spec.params import FeeSplit
from penstock.spec.pricing import split_charge

OPERATOR = "operator"
POOL = "pool"
RESERVE = "reserve"
MINT = "mint"

_SINGLE = frozenset({OPERATOR, POOL, RESERVE, MINT})


def payer_account(account: str) -> str:
    """The account of one who calls."""
    return f"payer/{account}"


def miner_account(identity: str) -> str:
    """The account of one who serves."""
    return f"miner/{identity}"


def is_account(name: str) -> bool:
    """One of the six kinds, with something after the slash where there is one."""
    kind, slash, rest = name.partition("/")
    return name in _SINGLE or (kind in {"payer", "miner"} and bool(slash) and bool(rest))


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a transfer: positive adds to the account, negative takes from it."""

    account: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Post:
    """Move money. The legs add up to zero."""

    id: str
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Set money of `account` aside under this id."""

    id: str
    account: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Extend:
    """Set more aside under a hold that is still open."""

    id: str
    hold: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Capture:
    """Move money out of a hold. The leg of the hold's account takes at most what is left of it."""

    id: str
    hold: str
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """End a hold: what is left is free again. Releasing twice changes nothing."""

    hold: str

    @property
    def id(self) -> str:
        """One release per hold, so the hold names it."""
        return f"release/{self.hold}"


Operation = Post | Hold | Extend | Capture | Release


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account owns, and how much of it is held. Free is the difference."""

    posted_nano: int
    held_nano: int

    @property
    def free_nano(self) -> int:
        """What may be spent or held now."""
        return self.posted_nano - self.held_nano


@dataclass(frozen=True, slots=True)
class Held:
    """The state of one hold. `amount_nano` is all ever set aside under it."""

    account: str
    amount_nano: int
    captured_nano: int
    is_open: bool

    @property
    def left_nano(self) -> int:
        """What may still be captured."""
        return self.amount_nano - self.captured_nano if self.is_open else 0


NOTHING = Balance(posted_nano=0, held_nano=0)


@dataclass(frozen=True, slots=True)
class Books:
    """A value: `apply` returns new books. `seen` maps operation ids to the digests of content."""

    accounts: Mapping[str, Balance] = field(default_factory=dict)
    holds: Mapping[str, Held] = field(default_factory=dict)
    seen: Mapping[str, bytes] = field(default_factory=dict)

    def balance(self, account: str) -> Balance:
        """The balance of an account; one never used is empty."""
        return self.accounts.get(account, NOTHING)


@lru_cache(maxsize=4096)
def operation_digest(operation: Operation) -> bytes:
    """32 bytes that tell two operations of the same id apart."""
    kind = type(operation).__name__.lower()
    return digest("books", {"kind": kind, "operation": to_plain(operation)})


def apply(books: Books, operation: Operation) -> Books:
    """The books after one operation, or the same books if it was applied before.

    Raises Overdraft, Unbalanced, UnknownHold, HoldExceeded, IdReused or BadPosting.
    """
    return apply_all(books, (operation,))


def apply_all(books: Books, operations: Iterable[Operation]) -> Books:
    """The books after all of them in order: all or nothing. Raises what `apply` raises."""
    accounts, holds, seen = dict(books.accounts), dict(books.holds), dict(books.seen)
    draft = Books(accounts=accounts, holds=holds, seen=seen)
    for operation in operations:
        content = operation_digest(operation)
        before = seen.get(operation.id)
        if before is None:
            changed_accounts, changed_holds = _changes(draft, operation)
            accounts.update(changed_accounts)
            holds.update(changed_holds)
            seen[operation.id] = content
        elif before != content:
            raise IdReused(id=operation.id)
    return draft


_Changes = tuple[dict[str, Balance], dict[str, Held]]


def _changes(books: Books, operation: Operation) -> _Changes:
    match operation:
        case Post():
            check_legs(operation.id, operation.legs)
            return _moved(books, operation.legs, freed={}), {}
        case Hold():
            return _hold(books, operation)
        case Extend():
            return _extend(books, operation)
        case Capture():
            return _capture(books, operation)
        case Release():
            return _release(books, operation)
        case _:
            assert_never(operation)


def check_legs(posting_id: str, legs: tuple[Leg, ...]) -> None:
    """At least two accounts, each once, no zero, sum zero. Raises BadPosting or Unbalanced."""
    names = {leg.account for leg in legs}
    if not legs or len(names) != len(legs) or not all(is_account(name) for name in names):
        raise BadPosting(id=posting_id, reason="no legs, an account twice, or no such account")
    if any(leg.amount_nano == 0 for leg in legs):
        raise BadPosting(id=posting_id, reason="a leg moves nothing")
    off = sum(leg.amount_nano for leg in legs)
    if off:
        raise Unbalanced(id=posting_id, off_nano=off)


def _moved(books: Books, legs: tuple[Leg, ...], freed: Mapping[str, int]) -> dict[str, Balance]:
    """New balances: `freed` is what each account's holds give up for it."""
    moved = {}
    for leg in legs:
        before = books.balance(leg.account)
        after = Balance(
            posted_nano=before.posted_nano + leg.amount_nano,
            held_nano=before.held_nano - freed.get(leg.account, 0),
        )
        # Only taking can overdraw: a gift to an account is never refused.
        if leg.amount_nano < 0:
            _check_free(leg.account, after)
        moved[leg.account] = after
    return moved


def _check_free(account: str, balance: Balance) -> None:
    if account != MINT and balance.free_nano < 0:
        raise Overdraft(account=account, short_nano=-balance.free_nano)


def _set_aside(books: Books, account: str, amount_nano: int) -> Balance:
    before = books.balance(account)
    after = replace(before, held_nano=before.held_nano + amount_nano)
    _check_free(account, after)
    return after


def _hold(books: Books, operation: Hold) -> _Changes:
    if operation.amount_nano <= 0 or not is_account(operation.account):
        raise BadPosting(id=operation.id, reason="a hold of nothing, or on no account")
    after = _set_aside(books, operation.account, operation.amount_nano)
    held = Held(
        account=operation.account,
        amount_nano=operation.amount_nano,
        captured_nano=0,
        is_open=True,
    )
    return {operation.account: after}, {operation.id: held}


def _find(books: Books, hold: str) -> Held:
    held = books.holds.get(hold)
    if held is None:
        raise UnknownHold(hold=hold)
    return held


def _extend(books: Books, operation: Extend) -> _Changes:
    held = _find(books, operation.hold)
    if operation.amount_nano <= 0 or not held.is_open:
        raise BadPosting(id=operation.id, reason="extends by nothing, or a released hold")
    after = _set_aside(books, held.account, operation.amount_nano)
    longer = replace(held, amount_nano=held.amount_nano + operation.amount_nano)
    return {held.account: after}, {operation.hold: longer}


def _capture(books: Books, operation: Capture) -> _Changes:
    held = _find(books, operation.hold)
    check_legs(operation.id, operation.legs)
    taken = sum(-leg.amount_nano for leg in operation.legs if leg.account == held.account)
    if taken <= 0:
        raise BadPosting(id=operation.id, reason="takes nothing from the hold's account")
    if taken > held.left_nano:
        raise HoldExceeded(hold=operation.hold, left_nano=held.left_nano, wanted_nano=taken)
    moved = _moved(books, operation.legs, freed={held.account: taken})
    return moved, {operation.hold: replace(held, captured_nano=held.captured_nano + taken)}


def _release(books: Books, operation: Release) -> _Changes:
    held = _find(books, operation.hold)
    before = books.balance(held.account)
    after = replace(before, held_nano=before.held_nano - held.left_nano)
    return {held.account: after}, {operation.hold: replace(held, is_open=False)}


def charge_legs(miner: str, charge_nano: int, *, fees: FeeSplit, paid_by: str) -> tuple[Leg, ...]:
    """The legs of a charged record: `paid_by` pays the charge and the fee rule splits it.

    `paid_by` is the payer's account, or `operator` when its gateway charged a payer without a hold:
    then the operator's own part comes back to it. No charge, no legs.
    """
    parts = split_charge(charge_nano, fees)
    amounts = {paid_by: -charge_nano}
    for account, amount in (
        (miner_account(miner), parts.miner_nano),
        (OPERATOR, parts.operator_nano),
        (POOL, parts.pool_nano),
    ):
        amounts[account] = amounts.get(account, 0) + amount
    return tuple(Leg(account=name, amount_nano=nano) for name, nano in amounts.items() if nano)


def owed_legs(miner: str, earned_nano: int, *, fees: FeeSplit) -> tuple[Leg, ...]:
    """The legs of a record that no payer is charged for (`gateway_failed`): the operator pays the
    miner its part of what it proved. Nobody takes a fee on a failure, so the pool gets nothing.
    """
    owed = split_charge(earned_nano, fees).miner_nano
    legs = (Leg(account=OPERATOR, amount_nano=-owed), Leg(miner_account(miner), owed))
    return legs if owed else ()


def pool_part(charge_nano: int, fees: FeeSplit) -> int:
    """What one record adds to its epoch's pool: a share of what it charges, whoever pays that."""
    return split_charge(charge_nano, fees).pool_nano
