"""What the ledger decides: pure rules on a view, gathered into one batch.

A `Draft` takes decisions one after another; each sees what the ones before it changed. Nothing here
waits, reads a clock or writes: the service loads the view and applies the batch.

Who pays for a record (from `spec.receipts.judge`): the payer, out of the lease its gateway names.
If that lease is not there, not this gateway's or this payer's, closed, or has too little left, the
gateway has let its operator down: the payer pays nothing and the operator pays the whole charge, so
that miner and pool get what the public record says. When the gateway never spoke the record charges
nobody, and the operator pays the miner's part of what it earned. An operator without the money is
advanced it by `mint` (`advance/<order>`): the miner is paid in any case, the books balance, and the
advances say what the operator owes.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

from penstock.ledger.errors import AccountConflict, Rejected
from penstock.ledger.intake import Judged, LeaseClosing, MarketWord
from penstock.ledger.state import (
    Appending,
    Batch,
    EntryKey,
    EpochState,
    Lease,
    Logged,
    View,
)
from penstock.spec.accounts import AccountOpening
from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
    RESERVE,
    Capture,
    Leg,
    Operation,
    Post,
    Release,
    apply,
    charge_legs,
    miner_account,
    owed_legs,
    payer_account,
    pool_part,
)
from penstock.spec.canon import to_plain
from penstock.spec.entries import Close, Entry, EntryKind, Row, leaf_bytes
from penstock.spec.errors import IdReused
from penstock.spec.messages import Order, Settlement
from penstock.spec.params import Params


class Fate(Enum):
    """What became of an event; the label under which it is counted."""

    POSTED = "posted"
    OPERATOR_PAID = "operator_paid"
    DUPLICATE = "duplicate"
    DISPUTED = "disputed"
    LOGGED = "logged"
    LEASES_CLOSED = "leases_closed"
    REJECTED = "rejected"


class ClaimState(Enum):
    """What became of a miner's claim."""

    POSTED = "posted"
    WAITING = "waiting"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Draft:
    """Decisions on top of one view; `batch()` is what they add up to."""

    def __init__(self, view: View, *, params: Params) -> None:
        self.view = view
        self.params = params
        self.books = view.books
        self.epoch = view.epoch
        self._operations: list[Operation] = []
        self._entries: dict[EntryKey, Appending] = {}
        self._epochs: dict[int, EpochState] = {}
        self._leases: dict[str, Lease] = {}
        self._keys: list[tuple[str, str]] = []
        self._claims: dict[str, int] = {}
        self._claims_over: list[str] = []

    # What the rules are made of ---------------------------------------------------------------

    def post(self, operation: Operation) -> None:
        """Apply an operation of the books. Raises what they refuse."""
        self.books = apply(self.books, operation)
        self._operations.append(operation)

    def find(self, key: EntryKey) -> Logged | Appending | None:
        """The entry of this kind and id, logged before or by this draft."""
        return self._entries.get(key) or self.view.entries.get(key)

    def append(self, entry: Entry, *, row: Row | None = None) -> int:
        """Append an entry that is not in the log yet; returns its sequence number."""
        return self.append_leaf(
            Appending(kind=entry.kind, entry_id=entry.entry_id, leaf=leaf_bytes(entry), row=row)
        )

    def append_leaf(self, appending: Appending) -> int:
        """The same for a leaf that is already spelled out."""
        key = (appending.kind, appending.entry_id)
        assert self.find(key) is None, "an id is logged once"
        assert self.epoch is not None, "the first epoch is opened before anything is logged"
        self._entries[key] = appending
        return self.view.frontier.size + len(self._entries) - 1

    def set_epoch(self, state: EpochState) -> None:
        """Replace an epoch's state."""
        self._epochs[state.epoch] = state
        if self.epoch is not None and state.epoch == self.epoch.epoch:
            self.epoch = state

    def set_lease(self, lease: Lease) -> None:
        """Replace a lease."""
        self._leases[lease.lease_id] = lease

    def lease(self, lease_id: str) -> Lease | None:
        """A lease as this draft has left it."""
        return self._leases.get(lease_id) or self.view.leases.get(lease_id)

    def leases(self) -> list[Lease]:
        """All leases in sight, as this draft has left them."""
        return list({**self.view.leases, **self._leases}.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was decided."""
        changes: tuple[Iterable[Any], ...] = (
            *(self._operations, self._entries, self._epochs, self._leases),
            *(self._keys, self._claims, self._claims_over),
        )
        return not any(changes)

    def batch(self) -> Batch:
        """Everything decided, as one transaction."""
        now_open = self.epoch.epoch if self.epoch is not None else -1
        before = self.view.epoch.epoch if self.view.epoch is not None else now_open
        return Batch(
            version=self.view.version,
            entries_epoch=before,
            open_epoch=now_open,
            operations=tuple(self._operations),
            entries=tuple(self._entries.values()),
            epochs=tuple(self._epochs.values()),
            leases=tuple(self._leases.values()),
            keys=tuple(self._keys),
            claims=tuple(self._claims.items()),
            claims_over=tuple(self._claims_over),
        )

    # Records and claims -----------------------------------------------------------------------

    def take_record(self, judged: Judged) -> Fate:
        """Log a judged record and move its money, once per order."""
        key = (EntryKind.RECORD, judged.order_id)
        logged = self.find(key)
        if logged is not None:
            return self._repeat(judged, logged.leaf)
        self.append_leaf(Appending(kind=key[0], entry_id=key[1], leaf=judged.leaf, row=judged.row))
        if judged.order_id in self.view.claims or judged.order_id in self._claims:
            self._claims_over.append(judged.order_id)
            self._claims.pop(judged.order_id, None)
        return self._pay(judged)

    def _repeat(self, judged: Judged, leaf: bytes) -> Fate:
        """The same again is nothing; another record of one order is logged, and moves no money."""
        if leaf == judged.leaf:
            return Fate.DUPLICATE
        entry_id = judged.dispute_id
        if self.find((EntryKind.DISPUTE, entry_id)) is not None:
            return Fate.DUPLICATE
        self.append(Entry(kind=EntryKind.DISPUTE, entry_id=entry_id, body=judged.plain))
        return Fate.DISPUTED

    def _pay(self, judged: Judged) -> Fate:
        judgement, fees = judged.judgement, self.params.fees
        miner, posting = judgement.order.miner, f"record/{judged.order_id}"
        charge = judgement.charge_nano
        self._add_to_pool(charge)
        if charge and self._can_capture(judged):
            payer = payer_account(judged.account)
            legs = charge_legs(miner, charge, fees=fees, paid_by=payer)
            self.post(Capture(id=posting, hold=judged.lease_id, legs=legs))
            return Fate.POSTED
        if charge:
            legs = charge_legs(miner, charge, fees=fees, paid_by=OPERATOR)
        else:
            legs = owed_legs(miner, judgement.earned_nano, fees=fees)
        if not legs:
            return Fate.POSTED
        self._advance(judged.order_id, legs)
        self.post(Post(id=posting, legs=legs))
        return Fate.OPERATOR_PAID

    def _add_to_pool(self, charge_nano: int) -> None:
        part = pool_part(charge_nano, self.params.fees)
        if part:
            assert self.epoch is not None, "records are logged in an epoch"
            self.set_epoch(replace(self.epoch, pool_nano=self.epoch.pool_nano + part))

    def _can_capture(self, judged: Judged) -> bool:
        lease = self.lease(judged.lease_id)
        if lease is None or not lease.is_open:
            return False
        if (lease.account, lease.gateway) != (judged.account, judged.judgement.order.gateway):
            return False
        return self.books.holds[lease.lease_id].left_nano >= judged.judgement.charge_nano

    def _advance(self, order_id: str, legs: tuple[Leg, ...]) -> None:
        """Lend the operator what it lacks for these legs."""
        change = sum(leg.amount_nano for leg in legs if leg.account == OPERATOR)
        short = -(self.books.balance(OPERATOR).free_nano + change)
        if short > 0:
            lent = (Leg(account=MINT, amount_nano=-short), Leg(account=OPERATOR, amount_nano=short))
            self.post(Post(id=f"advance/{order_id}", legs=lent))

    def take_claim(self, judged: Judged, *, now_ms: int, quiet_ms: int) -> ClaimState:
        """A miner's claim for a receipt that its gateway may still deliver.

        `quiet_ms` is when the ledger had last taken in all that gateways said: the grace ends only
        if it passed before then, so a ledger that lags behind never calls a gateway silent.
        """
        if self.find((EntryKind.RECORD, judged.order_id)) is not None:
            return ClaimState.POSTED
        first_ms = self.view.claims.get(judged.order_id, self._claims.get(judged.order_id))
        if first_ms is None:
            self._claims[judged.order_id] = now_ms
            return ClaimState.WAITING
        over_ms = min(now_ms, quiet_ms) - self.params.claim_grace_ms
        order = judged.judgement.order
        if first_ms > over_ms or (order.deadline_ms > over_ms and self._may_be_at_work(order)):
            return ClaimState.WAITING
        self.take_record(judged)
        return ClaimState.ACCEPTED

    def _may_be_at_work(self, order: Order) -> bool:
        """Whether the gateway may still speak about an order whose deadline has not passed.

        It closes a lease only behind the records of all that ran under it, so without an open lease
        from before the order it has said all it ever will. Else a miner that drags an answer out
        could have it paid as unseen, at any units, before its gateway can say what came.
        """
        opened_ms_max = order.issued_ms + self.params.clock_skew_max_ms
        return any(
            lease.is_open and lease.gateway == order.gateway and lease.opened_ms <= opened_ms_max
            for lease in self.leases()
        )

    # Leases and the market's words --------------------------------------------------------------

    def close_leases(self, closing: LeaseClosing) -> Fate:
        """Release one lease, or all that a gateway opened before its restart."""
        if closing.lease_id:
            lease = self.lease(closing.lease_id)
            chosen = [] if lease is None else [lease]
        else:
            chosen = [
                lease
                for lease in self.leases()
                if lease.gateway == closing.gateway and lease.opened_ms <= closing.opened_ms_max
            ]
        for lease in chosen:
            self.close_lease(lease)
        return Fate.LEASES_CLOSED

    def close_lease(self, lease: Lease) -> None:
        """Give back what is left; closing twice changes nothing."""
        if lease.is_open:
            self.post(Release(hold=lease.lease_id))
            self.set_lease(replace(lease, is_open=False))

    def take_word(self, word: MarketWord) -> Fate:
        """Log a manifest, targets or roll, once per id. Raises Rejected on a reused id."""
        logged = self.find((word.kind, word.entry_id))
        if logged is None:
            self.append_leaf(Appending(kind=word.kind, entry_id=word.entry_id, leaf=word.leaf))
            return Fate.LOGGED
        if logged.leaf != word.leaf:
            raise Rejected("id_reused", f"{word.kind.value} {word.entry_id} says something else")
        return Fate.DUPLICATE

    # Accounts, epochs, settlement ---------------------------------------------------------------

    def open_account(self, opening: AccountOpening) -> None:
        """Bind the key and add the credit, once per opening id. Raises AccountConflict."""
        owner = self.view.keys.get(opening.key_hash)
        if owner is not None and owner != opening.account:
            raise AccountConflict("key_taken", "This API key belongs to another account.")
        if owner is None:
            self._keys.append((opening.key_hash, opening.account))
        if opening.credit_nano:
            legs = (
                Leg(account=MINT, amount_nano=-opening.credit_nano),
                Leg(account=payer_account(opening.account), amount_nano=opening.credit_nano),
            )
            try:
                self.post(Post(id=f"opening/{opening.opening_id}", legs=legs))
            except IdReused as error:
                raise AccountConflict(
                    "opening_reused",
                    f"The opening id {opening.opening_id} was used for other content. "
                    "Take a new id for a new opening.",
                ) from error

    def open_first_epoch(self, number: int) -> None:
        """Where the log of a new market begins."""
        if self.epoch is None:
            self.epoch = EpochState(epoch=number, first_seq=self.view.frontier.size)
            self._epochs[number] = self.epoch

    def close_epoch(self, at_ms: int) -> EpochState:
        """End the open epoch in the log and open the next one; returns the closed one."""
        assert self.epoch is not None, "an epoch is open"
        assert not self._entries, "a close is a batch of its own"
        number, previous = self.epoch.epoch, self.epoch.previous
        body = to_plain(Close(epoch=number, previous=previous, at_ms=at_ms))
        seq = self.append(Entry(kind=EntryKind.CLOSE, entry_id=f"close/{number}", body=body))
        closed = replace(self.epoch, close_seq=seq, closed_ms=at_ms)
        self._epochs[number] = closed
        # Epochs that passed while the ledger was down hold nothing and are left out.
        following = max(number + 1, at_ms // self.params.epoch_ms)
        self.epoch = EpochState(epoch=following, first_seq=seq + 1, previous=number)
        self._epochs[following] = self.epoch
        return closed

    def settle(
        self, state: EpochState, settlement: Settlement, *, signed: dict[str, Any]
    ) -> EpochState:
        """Log the signed settlement and pay the epoch's pool out; returns the epoch's state."""
        entry_id = f"settlement/{settlement.epoch}"
        seq = self.append(Entry(kind=EntryKind.SETTLEMENT, entry_id=entry_id, body=signed))
        amounts = [(POOL, -settlement.pool_nano), (RESERVE, settlement.reserve_nano)]
        amounts += [(miner_account(one.identity), one.amount_nano) for one in settlement.payouts]
        legs = tuple(Leg(account=name, amount_nano=nano) for name, nano in amounts if nano)
        if legs:
            self.post(Post(id=entry_id, legs=legs))
        settled = replace(state, settled_seq=seq)
        self.set_epoch(settled)
        return settled
