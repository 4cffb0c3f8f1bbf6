"""One epoch of each network, worked out on paper. The numbers in the comments are the sums by hand;
the law must come to the same, from the prices to the last nano-USD of the payouts.
"""

from dataclasses import replace

import pytest
from tests.makers import MANIFEST, make_order

from penstock.spec.books import (
    MINT,
    OPERATOR,
    POOL,
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
    payer_account,
)
from penstock.spec.consensus import agree
from penstock.spec.demand import Usage, target, utilisation_ppm
from penstock.spec.entries import Row, size_bucket, work_units
from penstock.spec.evidence import Served, gather
from penstock.spec.messages import Claimed, Payout, Presence, Roll
from penstock.spec.params import LOCAL, MAINNET, Params
from penstock.spec.pricing import charge_ceiling, cost, split_charge
from penstock.spec.receipts import charge_for
from penstock.spec.scoring import availability, capacity, score, speed
from penstock.spec.settlement import settle
from penstock.spec.units import NANO_PER_USD, Price, Units

NETWORKS = pytest.mark.parametrize("params", [LOCAL, MAINNET], ids=["local", "mainnet"])

# 0.15 USD for a million prompt tokens, 0.03 cached, 0.60 completion, and 0.00001 USD a request.
PRICE = Price(
    request=10_000,
    prompt=150_000_000,
    cached=30_000_000,
    completion=600_000_000,
    images=0,
    audio_ms=0,
)
ASKED = Units(prompt=1_000, cached=600, completion=333, images=0, audio_ms=0)
# 400 fresh * 150 = 60_000 nano; 600 cached * 30 = 18_000; 333 * 600 = 199_800; and the request.
CHARGE = 60_000 + 18_000 + 199_800 + 10_000

FAST, SLOW, IDLE = "toy:1", "toy:2", "toy:3"
CHUTE = "sha256:c"
SECOND_US = 1_000_000


def test_what_one_request_costs_and_who_gets_it() -> None:
    assert CHARGE == 287_800
    assert cost(PRICE, ASKED) == CHARGE
    # 70 % to the miner, 10 % to the operator, 20 % to the pool.
    parts = split_charge(CHARGE, MAINNET.fees)
    assert (parts.miner_nano, parts.operator_nano, parts.pool_nano) == (201_460, 28_780, 57_560)
    assert LOCAL.fees == MAINNET.fees


def test_a_price_that_does_not_divide_is_rounded_up_once_and_the_miner_keeps_the_rest() -> None:
    # 7 prompt units at 1_001 nano a million: 7_007 millionths of a nano, rounded up to 1.
    odd = replace(PRICE, request=0, prompt=1_001, cached=0, completion=0)
    assert cost(odd, Units(prompt=7, cached=0, completion=0, images=0, audio_ms=0)) == 1
    # Of 9 nano: operator 0.9 -> 0, pool 1.8 -> 1, miner the other 8.
    parts = split_charge(9, MAINNET.fees)
    assert (parts.miner_nano, parts.operator_nano, parts.pool_nano) == (8, 0, 1)


def test_what_is_held_before_the_answer() -> None:
    # 2_064 prompt units at the dearer of prompt and cached, 500 completion units, the request:
    # 2_064 * 150 = 309_600; 500 * 600 = 300_000; 10_000.
    ceiling = charge_ceiling(PRICE, prompt_max=2_064, completion_max=500)
    assert ceiling == 619_600
    order = make_order(price=PRICE, prompt_max=2_064, completion_max=500, charge_max=ceiling)
    assert charge_for(order, ASKED) == CHARGE
    # An order that promises less than the price takes less than the price.
    assert charge_for(replace(order, charge_max=100_000), ASKED) == 100_000


@NETWORKS
def test_what_one_answer_is_worth_as_work(params: Params) -> None:
    # Fresh prompt units count 1, cached ones 0, completion units 8: 400 + 333 * 8.
    assert work_units(ASKED, params) == 3_064
    # 2^11 = 2_048 <= 3_064 < 4_096 = 2^12: twelve bits.
    assert size_bucket(3_064) == 12


def row(miner: str, number: int, *, work: int, ns: int, success: bool = True) -> Row:
    return Row(
        order_id=f"o-{miner}-{number}",
        chute=CHUTE,
        instance=f"{miner}-1",
        miner=miner,
        outcome="complete" if success else "miner_failed",
        prompt=work,
        cached=0,
        completion=0,
        charge_nano=CHARGE if success else 0,
        earned_nano=CHARGE if success else 0,
        work_units=work if success else 0,
        bucket=size_bucket(work) if success else 0,
        ns_per_unit=ns if success else 0,
        ttft_us=0,
        total_us=work * ns // 1_000,
        counts=1,
        success=int(success),
    )


def presence(miner: str, *, seen: int, due: int, asked: bool) -> Presence:
    return Presence(
        instance=f"{miner}-1",
        miner=miner,
        chute=CHUTE,
        device=f"device-{miner}",
        hardware="cpu",
        beats_seen=seen,
        beats_due=due,
        asked=asked,
    )


# FAST answers three requests of 4_000 units at 500 ns, SLOW two at 1_000 ns and fails a third.
# Measured: 500 500 500 1000 1000, so the network's lower median is the third: 500 ns.
ROWS = [
    *(row(FAST, number, work=4_000, ns=500) for number in range(3)),
    *(row(SLOW, number, work=4_000, ns=1_000) for number in range(2)),
    row(SLOW, 2, work=4_000, ns=0, success=False),
]
# FAST and SLOW were here all of the 60 beats; IDLE stood by for 30 of them because it was asked to.
ROLL = Roll(
    epoch=7,
    presences=(
        presence(FAST, seen=60, due=60, asked=False),
        presence(SLOW, seen=60, due=60, asked=False),
        presence(IDLE, seen=30, due=60, asked=True),
    ),
    bounties=(Claimed(IDLE, CHUTE, 100),),
)
EVIDENCE = gather(ROWS, [ROLL], failed=())


def test_the_evidence_of_the_epoch() -> None:
    assert [one.ns_per_unit for one in EVIDENCE.medians] == [500]
    assert [(one.miner, one.work_units, one.median_ns_per_unit) for one in EVIDENCE.works] == [
        (FAST, 12_000, 500),
        (SLOW, 8_000, 1_000),
    ]
    assert EVIDENCE.served == (Served(FAST, 3, 3), Served(SLOW, 3, 2))


def test_the_weights_of_the_local_network() -> None:
    # Work time at the network's pace: FAST 12_000 * 500 ns = 6 ms, SLOW 8_000 * 500 ns = 4 ms.
    # IDLE: 30 beats of 1_000 ms asked for, at 30 %: 9 s.
    assert capacity(EVIDENCE, LOCAL) == {FAST: 6_000, SLOW: 4_000, IDLE: 9 * SECOND_US}
    # In bucket 12 the lower median of {500, 1_000} is 500: FAST has ratio 1, SLOW one half.
    assert speed(EVIDENCE, LOCAL) == {FAST: 6_000, SLOW: 2_000}
    # FAST 3 of 3 and all its beats; SLOW 2 of 3: 4_000 * 2 / 3; IDLE served nobody: no share.
    assert availability(EVIDENCE, LOCAL) == {FAST: 6_000, SLOW: 2_666}


def test_the_weights_of_the_main_network_differ_by_the_length_of_a_beat_alone() -> None:
    # A beat is 5_000 ms there: 30 beats at 30 % are 45 s of standby.
    assert capacity(EVIDENCE, MAINNET) == {FAST: 6_000, SLOW: 4_000, IDLE: 45 * SECOND_US}
    assert speed(EVIDENCE, MAINNET) == speed(EVIDENCE, LOCAL)
    assert availability(EVIDENCE, MAINNET) == availability(EVIDENCE, LOCAL)


def test_the_scores_of_the_local_network() -> None:
    # capacity 550_000 over 9_010_000: FAST 366.26 -> 366, SLOW 244.17 -> 244, IDLE 549_389.57.
    # Rounded down they are 549_999; the unit left over goes to IDLE, who lost most (.57).
    # speed 200_000 over 8_000: 150_000 and 50_000.
    # availability 200_000 over 8_666: FAST 138_472.19, SLOW 61_527.81; the unit goes to SLOW.
    # bounties 50_000: all IDLE's.
    found = {one.miner: one for one in score(EVIDENCE, LOCAL)}
    parts = {
        miner: (one.capacity_ppm, one.speed_ppm, one.availability_ppm, one.bounties_ppm)
        for miner, one in found.items()
    }
    assert parts == {
        FAST: (366, 150_000, 138_472, 0),
        SLOW: (244, 50_000, 61_528, 0),
        IDLE: (549_390, 0, 0, 50_000),
    }
    assert {miner: one.total_ppm for miner, one in found.items()} == {
        FAST: 288_838,
        SLOW: 111_772,
        IDLE: 599_390,
    }


def test_the_scores_of_the_main_network() -> None:
    # capacity 550_000 over 45_010_000: FAST 73.317 -> 73, SLOW 48.878 -> 48, IDLE 549_877.805;
    # two units are left over, and SLOW (.878) and IDLE (.805) lost most by rounding.
    found = {one.miner: one.capacity_ppm for one in score(EVIDENCE, MAINNET)}
    assert found == {FAST: 73, SLOW: 49, IDLE: 549_878}


@NETWORKS
def test_three_validators_two_of_whom_agree(params: Params) -> None:
    # Equal stakes: fewer than four seats cannot hold the cap, so all count the same.
    # FAST: 300_000, 300_000 and 0 -> the median is 300_000. SLOW: 100_000 100_000 0 -> 100_000.
    # IDLE: 0 0 1_000_000 -> 0. Reserve: 600_000 600_000 0 -> 600_000.
    # Clipped: v1 and v2 stand whole, of v3 nothing stands. Ranks 3 : 1 : 6.
    fair = {FAST: 300_000, SLOW: 100_000}
    answer = agree(
        {"v1": fair, "v2": fair, "v3": {IDLE: 1_000_000}},
        {"v1": 50, "v2": 50, "v3": 50},
        entity_stake_max_ppm=params.entity_stake_max_ppm,
        kappa_ppm=params.kappa_ppm,
    )
    assert answer.weights_ppm == {FAST: 300_000, SLOW: 100_000}
    assert answer.trust_ppm == {"v1": 1_000_000, "v2": 1_000_000, "v3": 0}
    assert answer.counted_ppm == {"v1": 333_334, "v2": 333_333, "v3": 333_333}


def test_the_payout_of_the_epoch() -> None:
    # Five charged answers of 287_800 nano put 57_560 each into the pool: 287_800.
    pool = 5 * 57_560
    assert pool == 287_800
    # 30 % and 10 % of it: 86_340 and 28_780; the reserve keeps 60 %: 172_680.
    done = settle(7, pool, weights={FAST: 300_000, SLOW: 100_000}, reports=("bb", "aa"))
    assert done.payouts == (Payout(FAST, 86_340), Payout(SLOW, 28_780))
    assert done.reserve_nano == 172_680
    assert done.reports == ("aa", "bb")
    # Of 7 nano 30 % is 2.1, 10 % is 0.7 and 60 % is 4.2: the unit left over goes to SLOW's .7.
    small = settle(7, 7, weights={FAST: 300_000, SLOW: 100_000}, reports=())
    assert small.payouts == (Payout(FAST, 2), Payout(SLOW, 1))
    assert small.reserve_nano == 4


def test_the_books_of_the_epoch() -> None:
    ann = payer_account("ann")
    lease = LOCAL.lease_amount_nano
    said: list[Operation] = [
        Post("fund", (Leg(MINT, -5 * NANO_PER_USD), Leg(ann, 5 * NANO_PER_USD))),
        Hold("lease", ann, lease),
        *(
            Capture(f"record/{n}", "lease", charge_legs(FAST, CHARGE, fees=LOCAL.fees, paid_by=ann))
            for n in range(5)
        ),
        Release("lease"),
    ]
    books = apply_all(Books(), said)
    # Five times 287_800 from Ann: 1_439_000; 1_007_300 to the miner, 143_900, 287_800.
    assert books.balance(ann).posted_nano == 5_000_000_000 - 1_439_000
    assert books.balance(miner_account(FAST)).posted_nano == 1_007_300
    assert books.balance(OPERATOR).posted_nano == 143_900
    assert books.balance(POOL).posted_nano == 287_800
    assert books.balance(ann).held_nano == 0


def test_the_demand_of_the_local_network() -> None:
    # Two instances, four answers at once, an epoch of 60 s: 480 s to be had; 360 s busy is 75 %.
    usage = Usage(requests=90, refused=0, busy_us=360 * SECOND_US, serving=2, parallel=4)
    level = utilisation_ppm(busy_us=usage.busy_us, serving=2, parallel=4, epoch_ms=LOCAL.epoch_ms)
    assert level == 750_000
    first = target(MANIFEST, replace(usage, busy_us=0), params=LOCAL, previous=None)
    # Nothing to do: minimum of one instance, and a price one step (5 %) down.
    assert (first.instances, first.price_ppm) == (1, 950_000)
    # 75 % is above 70 %: one more than asked for, a step up.
    second = target(MANIFEST, usage, params=LOCAL, previous=first)
    assert (second.instances, second.price_ppm, second.bounty_points) == (2, 1_000_000, 0)
    # A third of 90 requests refused, with 6 wanted and served: 6 * 30 / 90 = 2 more.
    full = replace(usage, refused=30, serving=6)
    third = target(MANIFEST, full, params=LOCAL, previous=replace(second, instances=6))
    assert (third.instances, third.price_ppm) == (8, 1_050_000)


def test_the_demand_of_the_main_network() -> None:
    # The same 360 s of work are 1.25 % of two instances for an hour: 360 / (2 * 4 * 3_600).
    level = utilisation_ppm(
        busy_us=360 * SECOND_US, serving=2, parallel=4, epoch_ms=MAINNET.epoch_ms
    )
    assert level == 12_500
    usage = Usage(requests=90, refused=0, busy_us=360 * SECOND_US, serving=2, parallel=4)
    idle = target(MANIFEST, usage, params=MAINNET, previous=None)
    assert (idle.instances, idle.price_ppm) == (1, 950_000)
