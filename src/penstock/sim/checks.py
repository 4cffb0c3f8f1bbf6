"""What must hold of money and log at any moment, whatever the world does.

The books are built a second time from the journal, and every movement in them must be explained by
something that the simulation saw itself.
"""

from penstock.sim.ground import Ground
from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
    RESERVE,
    Books,
    Capture,
    Extend,
    Hold,
    Operation,
    Post,
    Release,
    apply_all,
    payer_account,
)
from penstock.spec.log import EMPTY, Frontier, leaf_hash

RECORD, OPENING, ADVANCE, SETTLEMENT = "record/", "opening/", "advance/", "settlement/"


class BookChecks:
    """Call `check` as often as you like; it goes on where it stood."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._payers = {payer_account(one.account) for one in ground.cast.payers}
        self._books = Books()
        self._done = 0
        self._frontier: Frontier = EMPTY
        self.operator_paid: dict[str, int] = {}
        """Charges that the operator had to pay for its gateways, by order."""

    def check(self) -> None:
        """Every rule about books and log."""
        store = self._ground.ledger_store
        fresh = store.operations[self._done :]
        self._done = len(store.operations)
        self._books = apply_all(self._books, fresh)
        for operation in fresh:
            self._explain(operation)
        for name in ("accounts", "holds"):
            kept, again = dict(getattr(store.books, name)), dict(getattr(self._books, name))
            if kept != again:
                self._breaks("the books are what the journal makes", f"{name}: {_gap(kept, again)}")
        self._sums()
        self._grow()

    def _breaks(self, check: str, detail: str) -> None:
        self._ground.witness.breaks(check, detail)

    def _sums(self) -> None:
        accounts = self._ground.ledger_store.books.accounts
        total = sum(balance.posted_nano for balance in accounts.values())
        if total:
            self._breaks("the books sum to zero", f"they sum to {total}")
        held: dict[str, int] = {}
        for hold in self._ground.ledger_store.books.holds.values():
            held[hold.account] = held.get(hold.account, 0) + hold.left_nano
        for name, balance in accounts.items():
            if balance.held_nano != held.get(name, 0):
                self._breaks("what is held is the sum of the holds", f"{name}: {balance}")
            if name != MINT and min(balance.free_nano, balance.held_nano) < 0:
                self._breaks("nobody is overdrawn", f"{name}: {balance}")

    def _grow(self) -> None:
        """The log's root is that of its leaves, and nothing in it ever changes."""
        store = self._ground.ledger_store
        for logged in store.log[self._frontier.size :]:
            if logged.seq != self._frontier.size:
                self._breaks("the log has no gap", f"{logged.seq} after {self._frontier.size}")
            self._frontier, _ = self._frontier.grow(leaf_hash(logged.leaf))
        if self._frontier.root() != store.frontier.root():
            self._breaks("the log's root is that of its leaves", f"size {self._frontier.size}")

    def _explain(self, operation: Operation) -> None:
        """Why did this move money? Breaks a rule when nobody knows."""
        match operation:
            case Hold(account=account):
                is_known = account in self._payers
            case Extend() | Release():
                is_known = True  # what they hold and release is compared with the holds
            case Capture():
                is_known = self._is_record(operation.id) and self._is_fair(operation)
            case Post():
                is_known = self._is_posting(operation)
        if not is_known:
            self._breaks("every movement of money has its reason", f"{operation}")

    def _is_record(self, posting: str) -> bool:
        order_id = posting.removeprefix(RECORD)
        return posting.startswith(RECORD) and order_id in self._ground.witness.sent

    def _is_fair(self, capture: Capture) -> bool:
        """The payer of the order, and nobody else, pays at most the ceiling in the order."""
        sent = self._ground.witness.sent[capture.id.removeprefix(RECORD)]
        paid = {leg.account: -leg.amount_nano for leg in capture.legs if leg.amount_nano < 0}
        payer = payer_account(sent.account)
        return set(paid) == {payer} and paid[payer] <= sent.order.charge_max

    def _is_posting(self, post: Post) -> bool:
        givers = {leg.account for leg in post.legs if leg.amount_nano < 0}
        if post.id.startswith(OPENING):
            return givers == {MINT}
        if post.id.startswith(ADVANCE):
            return givers == {MINT} and {leg.account for leg in post.legs} == {MINT, OPERATOR}
        if post.id.startswith(SETTLEMENT):
            return givers <= {POOL} and all(
                leg.account in {POOL, RESERVE} or leg.account.startswith("miner/")
                for leg in post.legs
            )
        if self._is_record(post.id) and givers == {OPERATOR}:
            order_id = post.id.removeprefix(RECORD)
            self.operator_paid[order_id] = -sum(min(leg.amount_nano, 0) for leg in post.legs)
            return True
        return False


def _gap(one: dict[str, object], other: dict[str, object]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(f"{name}: {one.get(name)} and {other.get(name)}" for name in names[:3])
