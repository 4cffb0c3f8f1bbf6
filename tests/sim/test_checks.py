"""The standing rules of books and log, on journals written by hand."""

from collections.abc import Iterator

import pytest
from tests.makers import make_order

from penstock.ledger.state import Appending, Batch, EpochState, Wanted
from penstock.sim.cast import draw_cast
from penstock.sim.checks import BookChecks
from penstock.sim.ground import Ground, make_ground
from penstock.sim.lives import Life
from penstock.sim.loop import VirtualLoop
from penstock.sim.seeds import Chance
from penstock.sim.witness import Sent
from penstock.spec.books import Balance, Books, Capture, Extend, Hold, Leg, Operation, Post, Release
from penstock.spec.entries import EntryKind

PAYER, MINER = "payer/person-1", "miner/toy:1"
OPENING = Post("opening/1", (Leg("mint", -1_000), Leg(PAYER, 1_000)))
HOLD = Hold("l-1", PAYER, 500)
CHARGE = 100


def capture(order_id: str, amount: int = CHARGE, payer: str = PAYER) -> Capture:
    return Capture(f"record/{order_id}", "l-1", (Leg(payer, -amount), Leg(MINER, amount)))


class Desk:
    """A ground with a ledger store into which a test writes."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.ground: Ground = make_ground(draw_cast(1, length_ms=0), Chance(1), self.loop)
        self.checks = BookChecks(self.ground)
        self.store = self.ground.ledger_store
        order = make_order(order_id="o-1", charge_max=CHARGE)
        life = Life(host="gateway-a", number=1)
        self.ground.witness.sent["o-1"] = Sent(order, "person-1", life)

    async def write(self, *operations: Operation, entries: tuple[Appending, ...] = ()) -> None:
        version = (await self.store.view(_nothing())).version
        await self.store.apply(
            Batch(
                version=version,
                entries_epoch=1,
                open_epoch=1,
                operations=operations,
                entries=entries,
                epochs=(EpochState(epoch=1, first_seq=0),),
            )
        )

    def broken(self) -> set[str]:
        self.checks.check()
        return {one.check for one in self.ground.witness.broken}


def _nothing() -> Wanted:
    return Wanted()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.loop.close()


class TestReasons:
    async def test_a_market_day_is_explained(self, desk: Desk) -> None:
        await desk.write(OPENING, HOLD, Extend("extend/l-1/1", "l-1", 100), capture("o-1"))
        await desk.write(Release("l-1"))
        assert desk.broken() == set()

    @pytest.mark.parametrize(
        "operation",
        [
            Post("bonus/1", (Leg("mint", -5), Leg("operator", 5))),
            Post("opening/2", (Leg(PAYER, -5), Leg("operator", 5))),
            Post("advance/o-1", (Leg("mint", -5), Leg(MINER, 5))),
            Post("settlement/1", (Leg(PAYER, -5), Leg("reserve", 5))),
            Post("record/o-1", (Leg(PAYER, -5), Leg(MINER, 5))),
            capture("o-2"),
            capture("o-1", CHARGE + 1),
        ],
        ids=lambda one: f"{one.id} {one.legs[0].account} {one.legs[1].amount_nano}",
    )
    async def test_money_that_moves_without_a_reason_is_seen(
        self, desk: Desk, operation: Operation
    ) -> None:
        await desk.write(OPENING, HOLD, operation)
        assert desk.broken() == {"every movement of money has its reason"}

    async def test_a_hold_on_a_stranger_is_seen(self, desk: Desk) -> None:
        await desk.write(Post("opening/1", (Leg("mint", -9), Leg("payer/x", 9))))
        await desk.write(Hold("l-2", "payer/x", 5))
        assert desk.broken() == {"every movement of money has its reason"}

    async def test_what_the_operator_pays_is_written_down(self, desk: Desk) -> None:
        await desk.write(Post("advance/o-1", (Leg("mint", -7), Leg("operator", 7))))
        await desk.write(Post("record/o-1", (Leg("operator", -7), Leg(MINER, 7))))
        assert desk.broken() == set()
        assert desk.checks.operator_paid == {"o-1": 7}


class TestBooks:
    async def test_books_that_were_changed_behind_the_journal_are_seen(self, desk: Desk) -> None:
        await desk.write(OPENING)
        accounts = {**desk.store.books.accounts, PAYER: Balance(2_000, 0)}
        desk.store.books = Books(accounts, desk.store.books.holds, desk.store.books.seen)
        assert {"the books are what the journal makes", "the books sum to zero"} <= desk.broken()

    async def test_a_balance_that_holds_more_than_its_holds_is_seen(self, desk: Desk) -> None:
        await desk.write(OPENING, HOLD)
        accounts = {**desk.store.books.accounts, PAYER: Balance(1_000, 501)}
        desk.store.books = Books(accounts, desk.store.books.holds, desk.store.books.seen)
        assert "what is held is the sum of the holds" in desk.broken()

    async def test_an_overdraft_is_seen(self, desk: Desk) -> None:
        await desk.write(OPENING, HOLD)
        accounts = {**desk.store.books.accounts, PAYER: Balance(400, 500)}
        desk.store.books = Books(accounts, desk.store.books.holds, desk.store.books.seen)
        assert "nobody is overdrawn" in desk.broken()


class TestLog:
    def entry(self, number: int) -> Appending:
        return Appending(EntryKind.CLOSE, f"close/{number}", b"leaf %d" % number)

    async def test_a_log_that_grows_is_well(self, desk: Desk) -> None:
        await desk.write(entries=(self.entry(1), self.entry(2)))
        assert desk.broken() == set()
        await desk.write(entries=(self.entry(3),))
        assert desk.broken() == set()

    async def test_a_leaf_that_is_not_under_the_root_is_seen(self, desk: Desk) -> None:
        await desk.write(entries=(self.entry(1), self.entry(2)))
        desk.store.log[1] = desk.store.log[0]
        assert {"the log has no gap", "the log's root is that of its leaves"} <= desk.broken()
