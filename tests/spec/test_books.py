"""The books: nothing is made, lost or promised twice, whatever is done to them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
    RESERVE,
    Balance,
    Books,
    Capture,
    Extend,
    Held,
    Hold,
    Leg,
    Operation,
    Post,
    Release,
    apply,
    apply_all,
    charge_legs,
    check_legs,
    is_account,
    miner_account,
    operation_digest,
    owed_legs,
    payer_account,
    pool_part,
)
from penstock.spec.errors import (
    BadPosting,
    HoldExceeded,
    IdReused,
    Overdraft,
    Unbalanced,
    UnknownHold,
)
from penstock.spec.params import MAINNET, FeeSplit
from penstock.spec.units import PPM

ANN, BOB = payer_account("ann"), payer_account("bob")
MINER = miner_account("toy:" + "1" * 16)
FEES = MAINNET.fees


def move(posting_id: str, source: str, target: str, nano: int) -> Post:
    return Post(id=posting_id, legs=(Leg(source, -nano), Leg(target, nano)))


def funded(nano: int = 1_000) -> Books:
    """Ann has this much."""
    return apply(Books(), move("fund", MINT, ANN, nano))


def held(nano: int = 600) -> Books:
    """Ann has 1000, of which this much is held under `h`."""
    return apply(funded(), Hold(id="h", account=ANN, amount_nano=nano))


def captured(nano: int, *, posting_id: str = "c", hold: str = "h") -> Capture:
    return Capture(id=posting_id, hold=hold, legs=(Leg(ANN, -nano), Leg(MINER, nano)))


class TestAccounts:
    @pytest.mark.parametrize("name", [ANN, MINER, OPERATOR, POOL, RESERVE, MINT])
    def test_the_six_kinds_are_accounts(self, name: str) -> None:
        assert is_account(name)

    @pytest.mark.parametrize("name", ["", "ann", "payer", "payer/", "miner/", "pool/x", "mint/1"])
    def test_other_names_are_not(self, name: str) -> None:
        assert not is_account(name)

    def test_an_account_never_used_is_empty(self) -> None:
        assert Books().balance(BOB) == Balance(posted_nano=0, held_nano=0)


class TestPost:
    def test_money_moves_from_one_account_to_another(self) -> None:
        books = apply(funded(), move("p", ANN, BOB, 300))
        assert books.balance(ANN).posted_nano == 700
        assert books.balance(BOB).posted_nano == 300

    def test_the_old_books_are_a_value_and_stay_as_they_were(self) -> None:
        before = funded()
        apply(before, move("p", ANN, BOB, 300))
        assert before.balance(ANN).posted_nano == 1_000
        assert BOB not in before.accounts

    def test_legs_that_do_not_add_up_are_refused(self) -> None:
        with pytest.raises(Unbalanced) as caught:
            apply(funded(), Post(id="p", legs=(Leg(ANN, -300), Leg(BOB, 299))))
        assert caught.value.off_nano == -1

    @pytest.mark.parametrize(
        "legs",
        [
            (),
            (Leg(ANN, -1), Leg(ANN, 1)),
            (Leg(ANN, 0), Leg(BOB, 0)),
            (Leg(ANN, -1), Leg("nobody", 1)),
        ],
    )
    def test_legs_that_say_nothing_sensible_are_refused(self, legs: tuple[Leg, ...]) -> None:
        with pytest.raises(BadPosting):
            check_legs("p", legs)

    def test_nobody_but_the_mint_goes_below_zero(self) -> None:
        with pytest.raises(Overdraft) as caught:
            apply(funded(), move("p", ANN, BOB, 1_001))
        assert (caught.value.account, caught.value.short_nano) == (ANN, 1)
        assert funded().balance(MINT).posted_nano == -1_000

    def test_the_last_unit_may_be_spent(self) -> None:
        assert apply(funded(), move("p", ANN, BOB, 1_000)).balance(ANN).posted_nano == 0

    @pytest.mark.parametrize("account", [OPERATOR, POOL, RESERVE, MINER])
    def test_the_markets_own_accounts_do_not_overdraw_either(self, account: str) -> None:
        with pytest.raises(Overdraft):
            apply(Books(), move("p", account, BOB, 1))

    def test_the_same_post_again_changes_nothing(self) -> None:
        once = apply(funded(), move("p", ANN, BOB, 300))
        assert apply(once, move("p", ANN, BOB, 300)) == once

    def test_an_id_with_other_content_is_refused(self) -> None:
        once = apply(funded(), move("p", ANN, BOB, 300))
        with pytest.raises(IdReused) as caught:
            apply(once, move("p", ANN, BOB, 301))
        assert caught.value.id == "p"

    def test_an_id_of_one_kind_is_not_an_id_of_another(self) -> None:
        with pytest.raises(IdReused):
            apply(held(), move("h", ANN, BOB, 1))


class TestHold:
    def test_held_money_is_owned_but_not_free(self) -> None:
        balance = held().balance(ANN)
        assert (balance.posted_nano, balance.held_nano, balance.free_nano) == (1_000, 600, 400)

    def test_held_money_cannot_be_spent(self) -> None:
        with pytest.raises(Overdraft) as caught:
            apply(held(), move("p", ANN, BOB, 401))
        assert caught.value.short_nano == 1

    def test_more_than_is_free_cannot_be_held(self) -> None:
        with pytest.raises(Overdraft):
            apply(held(), Hold(id="h2", account=ANN, amount_nano=401))

    @pytest.mark.parametrize(("account", "nano"), [(ANN, 0), (ANN, -1), ("nobody", 5)])
    def test_a_hold_of_nothing_or_on_nobody_is_refused(self, account: str, nano: int) -> None:
        with pytest.raises(BadPosting):
            apply(funded(), Hold(id="h", account=account, amount_nano=nano))

    def test_the_same_hold_again_holds_nothing_more(self) -> None:
        assert apply(held(), Hold(id="h", account=ANN, amount_nano=600)) == held()

    def test_a_hold_may_be_extended(self) -> None:
        books = apply(held(), Extend(id="e", hold="h", amount_nano=400))
        assert books.holds["h"].left_nano == 1_000
        assert books.balance(ANN).free_nano == 0

    def test_a_hold_is_not_extended_beyond_what_is_free(self) -> None:
        with pytest.raises(Overdraft):
            apply(held(), Extend(id="e", hold="h", amount_nano=401))

    def test_a_hold_is_not_extended_by_nothing(self) -> None:
        with pytest.raises(BadPosting):
            apply(held(), Extend(id="e", hold="h", amount_nano=0))

    def test_a_released_hold_is_not_extended(self) -> None:
        with pytest.raises(BadPosting):
            apply(apply(held(), Release("h")), Extend(id="e", hold="h", amount_nano=1))

    def test_the_mint_may_be_held_without_bound(self) -> None:
        books = apply(Books(), Hold(id="h", account=MINT, amount_nano=5))
        assert books.balance(MINT).held_nano == 5


class TestCapture:
    def test_a_part_is_taken_out_of_the_hold_and_of_the_account(self) -> None:
        books = apply(held(), captured(250))
        assert books.balance(ANN) == Balance(posted_nano=750, held_nano=350)
        assert books.holds["h"] == Held(ANN, 600, 250, is_open=True)
        assert books.balance(MINER).posted_nano == 250

    def test_many_parts_are_taken_until_nothing_is_left(self) -> None:
        books = apply_all(held(), [captured(200, posting_id=f"c{n}") for n in range(3)])
        assert books.holds["h"].left_nano == 0
        assert books.balance(ANN) == Balance(posted_nano=400, held_nano=0)

    def test_more_than_is_left_is_refused(self) -> None:
        with pytest.raises(HoldExceeded) as caught:
            apply(apply(held(), captured(250)), captured(351, posting_id="c2"))
        assert (caught.value.left_nano, caught.value.wanted_nano) == (350, 351)

    def test_a_hold_nobody_made_is_refused(self) -> None:
        with pytest.raises(UnknownHold) as caught:
            apply(funded(), captured(1))
        assert caught.value.hold == "h"

    def test_nothing_is_taken_from_a_released_hold(self) -> None:
        with pytest.raises(HoldExceeded) as caught:
            apply(apply(held(), Release("h")), captured(1))
        assert caught.value.left_nano == 0

    def test_a_capture_takes_from_the_account_that_is_held(self) -> None:
        books = apply(held(), move("f", MINT, BOB, 100))
        with pytest.raises(BadPosting):
            apply(books, Capture(id="c", hold="h", legs=(Leg(BOB, -1), Leg(MINER, 1))))

    def test_a_capture_may_not_give_to_the_account_that_is_held(self) -> None:
        books = apply(held(), move("f", MINT, BOB, 100))
        with pytest.raises(BadPosting):
            apply(books, Capture(id="c", hold="h", legs=(Leg(BOB, -1), Leg(ANN, 1))))

    def test_others_that_pay_along_do_not_overdraw(self) -> None:
        legs = (Leg(ANN, -1), Leg(BOB, -1), Leg(MINER, 2))
        with pytest.raises(Overdraft):
            apply(held(), Capture(id="c", hold="h", legs=legs))

    def test_the_same_capture_again_takes_nothing(self) -> None:
        once = apply(held(), captured(250))
        assert apply(once, captured(250)) == once

    def test_unbalanced_legs_are_refused(self) -> None:
        with pytest.raises(Unbalanced):
            apply(held(), Capture(id="c", hold="h", legs=(Leg(ANN, -2), Leg(MINER, 1))))


class TestRelease:
    def test_what_is_left_is_free_again(self) -> None:
        books = apply_all(held(), [captured(250), Release("h")])
        assert books.balance(ANN) == Balance(posted_nano=750, held_nano=0)
        assert not books.holds["h"].is_open

    def test_releasing_twice_changes_nothing(self) -> None:
        once = apply(held(), Release("h"))
        assert apply(once, Release("h")) == once

    def test_a_hold_nobody_made_is_refused(self) -> None:
        with pytest.raises(UnknownHold):
            apply(funded(), Release("h"))


class TestBatches:
    def test_an_error_in_the_middle_leaves_nothing_half_done(self) -> None:
        before = held()
        with pytest.raises(Overdraft):
            apply_all(before, [captured(100), move("p", BOB, ANN, 1), Release("h")])
        assert before == held()

    def test_operations_see_what_the_ones_before_them_did(self) -> None:
        steps = [move("p", ANN, BOB, 400), move("q", BOB, MINER, 400)]
        assert apply_all(funded(), steps).balance(MINER).posted_nano == 400

    def test_digests_tell_kinds_and_contents_apart(self) -> None:
        operations: list[Operation] = [
            Hold(id="x", account=ANN, amount_nano=1),
            Hold(id="x", account=ANN, amount_nano=2),
            Extend(id="x", hold=ANN, amount_nano=1),
            Release("x"),
            move("x", ANN, BOB, 1),
            captured(1, posting_id="x"),
        ]
        assert len({operation_digest(one) for one in operations}) == len(operations)


class TestCharges:
    def test_a_charge_is_split_by_the_fee_rule(self) -> None:
        legs = charge_legs("toy:" + "1" * 16, 1_000, fees=FEES, paid_by=ANN)
        amounts = {leg.account: leg.amount_nano for leg in legs}
        assert amounts == {ANN: -1_000, MINER: 700, OPERATOR: 100, POOL: 200}

    def test_an_operator_who_pays_a_charge_keeps_its_own_part(self) -> None:
        legs = charge_legs("toy:" + "1" * 16, 1_000, fees=FEES, paid_by=OPERATOR)
        amounts = {leg.account: leg.amount_nano for leg in legs}
        assert amounts == {OPERATOR: -900, MINER: 700, POOL: 200}

    def test_an_operator_owes_only_the_miners_part_when_nobody_is_charged(self) -> None:
        legs = owed_legs("toy:" + "1" * 16, 1_000, fees=FEES)
        assert legs == (Leg(OPERATOR, -700), Leg(MINER, 700))

    def test_nothing_charged_or_earned_has_no_legs(self) -> None:
        assert charge_legs("toy:" + "1" * 16, 0, fees=FEES, paid_by=ANN) == ()
        assert owed_legs("toy:" + "1" * 16, 0, fees=FEES) == ()
        assert pool_part(0, FEES) == 0

    @given(
        charge=st.integers(min_value=1, max_value=10**15),
        miner=st.integers(min_value=0, max_value=PPM),
        payer=st.sampled_from([ANN, OPERATOR]),
        data=st.data(),
    )
    def test_legs_always_balance_and_the_pool_gets_its_part(
        self, charge: int, miner: int, payer: str, data: Any
    ) -> None:
        operator = data.draw(st.integers(min_value=0, max_value=PPM - miner))
        fees = FeeSplit(miner_ppm=miner, operator_ppm=operator, pool_ppm=PPM - miner - operator)
        for legs in (
            charge_legs("toy:" + "1" * 16, charge, fees=fees, paid_by=payer),
            owed_legs("toy:" + "1" * 16, charge, fees=fees),
        ):
            if legs:
                check_legs("p", legs)
        pooled = [
            leg.amount_nano
            for leg in charge_legs("toy:" + "1" * 16, charge, fees=fees, paid_by=ANN)
            if leg.account == POOL
        ]
        assert sum(pooled) == pool_part(charge, fees)
