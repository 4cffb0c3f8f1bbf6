"""From signed words to the books and the log, all laws together: what is judged is what is moved."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.makers import toy_verify
from tests.spec.honest_records import PAYERS, Ending, Told, told

from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
    RESERVE,
    Books,
    Capture,
    Hold,
    Leg,
    Operation,
    Post,
    Release,
    apply_all,
    charge_legs,
    miner_account,
    owed_legs,
    payer_account,
    pool_part,
)
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.entries import Entry, EntryKind, Row, leaf_bytes, parse_leaf, row_of
from penstock.spec.evidence import gather
from penstock.spec.params import LOCAL
from penstock.spec.pricing import cost, split_charge
from penstock.spec.receipts import Judgement, judge, parse_record, record_id
from penstock.spec.scoring import score
from penstock.spec.settlement import settle
from penstock.spec.units import PPM

FUND_NANO = 10**12
OPERATOR_FUND_NANO = 10**12


def judged(one: Told) -> Judgement:
    return judge(one.record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)


@st.composite
def stories(draw: st.DrawFn) -> list[Told]:
    """Up to eight orders with any endings, each order its own."""
    count = draw(st.integers(1, 8))
    return [draw(told(number)) for number in range(count)]


def opening() -> list[Operation]:
    """Everybody who pays has money, and a hold of all of it."""
    given_: list[Operation] = []
    for name in PAYERS:
        account = payer_account(name)
        given_.append(Post(f"fund/{name}", (Leg(MINT, -FUND_NANO), Leg(account, FUND_NANO))))
        given_.append(Hold(f"hold/{name}", account, FUND_NANO))
    legs = (Leg(MINT, -OPERATOR_FUND_NANO), Leg(OPERATOR, OPERATOR_FUND_NANO))
    return [*given_, Post("fund/operator", legs)]


def moves(said: Sequence[Told]) -> list[Operation]:
    """What the books are told of these records, as the ledger tells them."""
    operations: list[Operation] = []
    for one in said:
        found = judged(one)
        order = found.order
        payer = payer_account(order.payer_tag)
        posting = f"record/{order.order_id}"
        if found.charge_nano:
            legs = charge_legs(order.miner, found.charge_nano, fees=LOCAL.fees, paid_by=payer)
            operations.append(Capture(posting, f"hold/{order.payer_tag}", legs))
        elif legs := owed_legs(order.miner, found.earned_nano, fees=LOCAL.fees):
            operations.append(Post(posting, legs))
    return operations


def closing() -> list[Operation]:
    return [Release(f"hold/{name}") for name in PAYERS]


def spent(books: Books) -> dict[str, int]:
    return {
        name: FUND_NANO - books.balance(payer_account(name)).posted_nano
        for name in PAYERS
        if books.balance(payer_account(name)).posted_nano != FUND_NANO
    }


@given(told())
def test_every_honest_ending_costs_what_the_table_of_outcomes_says(one: Told) -> None:
    found = judged(one)
    assert (found.charge_nano, found.earned_nano) == (one.charge_nano, one.earned_nano)
    assert found.units == one.units
    assert 0 <= found.charge_nano <= one.order.charge_max
    assert found.charge_nano <= cost(one.order.price, one.units)


@given(told())
def test_only_what_a_miner_can_help_counts_for_its_availability(one: Told) -> None:
    counts = {
        Ending.COMPLETE: True,
        Ending.MINER_FAILED: True,
        Ending.REFUSED: judged(one).total_us > LOCAL.refusal_free_ms * 1_000,
    }
    assert judged(one).counts == counts.get(one.ending, False)


@given(stories())
def test_what_payers_lose_is_what_was_judged_and_all_books_add_up_to_zero(
    said: list[Told],
) -> None:
    books = apply_all(Books(), [*opening(), *moves(said), *closing()])
    charged: dict[str, int] = defaultdict(int)
    for one in said:
        charged[one.order.payer_tag] += one.charge_nano
    assert spent(books) == {name: nano for name, nano in charged.items() if nano}
    assert sum(one.posted_nano for one in books.accounts.values()) == 0
    assert all(one.held_nano == 0 for one in books.accounts.values())


@given(stories())
def test_miners_operator_and_pool_get_together_what_payers_and_operator_give(
    said: list[Told],
) -> None:
    books = apply_all(Books(), [*opening(), *moves(said)])
    earned: dict[str, int] = defaultdict(int)
    for one in said:
        earned[one.order.miner] += split_charge(one.earned_nano, LOCAL.fees).miner_nano
    for miner, nano in earned.items():
        assert books.balance(miner_account(miner)).posted_nano == nano
    pooled = sum(pool_part(one.charge_nano, LOCAL.fees) for one in said)
    assert books.balance(POOL).posted_nano == pooled
    charged = sum(one.charge_nano for one in said)
    operator = books.balance(OPERATOR).posted_nano - OPERATOR_FUND_NANO
    assert operator == charged - sum(earned.values()) - pooled


@given(stories(), st.randoms(use_true_random=False))
def test_the_order_in_which_records_arrive_moves_the_same_money(
    said: list[Told], chance: Random
) -> None:
    shuffled = chance.sample(said, len(said))
    straight = apply_all(Books(), [*opening(), *moves(said), *closing()])
    mixed = apply_all(Books(), [*opening(), *moves(shuffled), *closing()])
    assert straight.accounts == mixed.accounts


@given(stories(), st.integers(1, 3))
def test_records_delivered_again_and_again_move_their_money_once(
    said: list[Told], times: int
) -> None:
    once = apply_all(Books(), [*opening(), *moves(said)])
    again = once
    for _ in range(times):
        again = apply_all(again, moves(said))
    assert again == once


@given(stories())
def test_any_judged_record_goes_into_the_log_and_comes_back_as_the_same_row(
    said: list[Told],
) -> None:
    for one in said:
        row = row_of(judged(one), LOCAL)
        entry = Entry(EntryKind.RECORD, record_id(one.record), to_plain(one.record))
        back = parse_leaf(leaf_bytes(entry))
        assert back == entry
        record = parse_record(back.body)
        assert record == one.record
        again = judge(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)
        assert row_of(again, LOCAL) == row
        assert from_plain(Row, to_plain(row)) == row


@given(stories())
def test_rows_name_work_and_time_only_where_somebody_paid(said: list[Told]) -> None:
    for one in said:
        row = row_of(judged(one), LOCAL)
        if one.ending is Ending.COMPLETE and one.charge_nano:
            fresh = one.units.prompt - one.units.cached
            assert row.work_units == fresh + 8 * one.units.completion
        else:
            assert (row.work_units, row.ns_per_unit) == (0, 0)
        assert (row.charge_nano, row.earned_nano) == (one.charge_nano, one.earned_nano)


@given(stories())
def test_a_whole_epoch_from_records_to_payouts_leaves_no_unit_behind(said: list[Told]) -> None:
    books = apply_all(Books(), [*opening(), *moves(said), *closing()])
    rows = [row_of(judged(one), LOCAL) for one in said]
    scores = score(gather(rows, (), failed=()), LOCAL)
    weights = {one.miner: one.total_ppm for one in scores}
    pool = books.balance(POOL).posted_nano
    done = settle(7, pool, weights=weights, reports=())
    amounts = [(POOL, -pool), (RESERVE, done.reserve_nano)]
    amounts += [(miner_account(one.identity), one.amount_nano) for one in done.payouts]
    legs = tuple(Leg(name, nano) for name, nano in amounts if nano)
    after = apply_all(books, [Post("settlement/7", legs)]) if legs else books
    assert after.balance(POOL).posted_nano == 0
    assert sum(one.posted_nano for one in after.accounts.values()) == 0
    assert after.balance(RESERVE).posted_nano == done.reserve_nano
    assert sum(weights.values()) <= PPM
