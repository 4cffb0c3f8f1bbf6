"""Any operations in any order: the books keep their sums and nobody overdraws."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)
from tests.spec.test_books import move

from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
    RESERVE,
    Books,
    Capture,
    Extend,
    Hold,
    Leg,
    Operation,
    Release,
    apply,
    miner_account,
    payer_account,
)
from penstock.spec.errors import (
    SpecError,
)

MINER = miner_account("toy:" + "1" * 16)


def total(books: Books) -> int:
    return sum(balance.posted_nano for balance in books.accounts.values())


ANN, BOB = payer_account("ann"), payer_account("bob")
ACCOUNTS = st.sampled_from([ANN, BOB, MINER, OPERATOR, POOL, RESERVE, MINT])
AMOUNTS = st.integers(min_value=1, max_value=1_000)


class BooksMachine(RuleBasedStateMachine):
    """Anything, in any order, any number of times: what must hold then is below."""

    holds: Bundle[str] = Bundle("holds")
    done: Bundle[Operation] = Bundle("done")

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.count = 0

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def attempt(self, operation: Operation) -> bool:
        """Apply it if the books allow; a refusal must leave them as they were."""
        before = self.books
        copy = Books(dict(before.accounts), dict(before.holds), dict(before.seen))
        try:
            self.books = apply(before, operation)
        except SpecError:
            assert before == copy
            return False
        assert before == copy
        return True

    @rule(target=done, source=ACCOUNTS, to=ACCOUNTS, nano=AMOUNTS)
    def post(self, source: str, to: str, nano: int) -> Any:
        operation = move(self.fresh("p"), source, to, nano)
        return operation if self.attempt(operation) else multiple()

    @rule(target=holds, account=ACCOUNTS, nano=AMOUNTS)
    def hold(self, account: str, nano: int) -> Any:
        operation = Hold(id=self.fresh("h"), account=account, amount_nano=nano)
        return operation.id if self.attempt(operation) else multiple()

    @rule(hold=holds, nano=AMOUNTS)
    def extend(self, hold: str, nano: int) -> None:
        self.attempt(Extend(id=self.fresh("e"), hold=hold, amount_nano=nano))

    @rule(target=done, hold=holds, to=ACCOUNTS, nano=AMOUNTS)
    def capture(self, hold: str, to: str, nano: int) -> Any:
        account = self.books.holds[hold].account
        left = self.books.holds[hold].left_nano
        legs = (Leg(account, -nano), Leg(to, nano))
        operation = Capture(id=self.fresh("c"), hold=hold, legs=legs)
        was_taken = self.attempt(operation)
        assert not was_taken or nano <= left
        return operation if was_taken else multiple()

    @rule(hold=holds)
    def release(self, hold: str) -> None:
        assert self.attempt(Release(hold))
        assert self.books.holds[hold].left_nano == 0

    @rule(operation=done)
    def say_it_again(self, operation: Operation) -> None:
        assert apply(self.books, operation) == self.books

    @invariant()
    def all_money_adds_up_to_zero(self) -> None:
        assert total(self.books) == 0

    @invariant()
    def nobody_is_overdrawn_counting_holds(self) -> None:
        for name, balance in self.books.accounts.items():
            assert name == MINT or balance.free_nano >= 0

    @invariant()
    def what_is_held_is_what_open_holds_have_left(self) -> None:
        for name, balance in self.books.accounts.items():
            left = [one.left_nano for one in self.books.holds.values() if one.account == name]
            assert balance.held_nano == sum(left)


TestBooksMachine = BooksMachine.TestCase
