"""The forecast is the law itself over the market's picture: known cases, and what must hold always."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.miner.forecast import DAY_MS, Picture, Serving, Wanted, evidence_of, forecast
from penstock.spec.params import LOCAL, MAINNET
from penstock.spec.scoring import score
from penstock.spec.units import PPM

ME = "ed25519:" + "1" * 64


def serving(number: int, chute: str = "c") -> Serving:
    miner = f"ed25519:{number:064x}"
    return Serving(miner, f"i-{number}", chute, "cpu", miner)


def one_chute(*others: Serving, pool_nano: int = 1_000_000, busy_us: int = 1_000_000) -> Picture:
    wanted = Wanted("c", instances=8, busy_us=busy_us)
    return Picture(tuple(others), (wanted,), pool_nano)


def test_alone_it_has_all_but_the_bounties() -> None:
    found = forecast(one_chute(), ME, ("c",), hardware="cpu", params=LOCAL)
    assert found.score.total_ppm == PPM - LOCAL.weights.bounties_ppm
    assert found.payout_nano == 950_000
    charged = 1_000_000 * PPM // LOCAL.fees.pool_ppm
    assert found.direct_nano == charged * LOCAL.fees.miner_ppm // PPM
    assert found.nano_per_day == (found.payout_nano + found.direct_nano) * DAY_MS // LOCAL.epoch_ms


def test_two_alike_share_evenly() -> None:
    found = forecast(one_chute(serving(7)), ME, ("c",), hardware="cpu", params=LOCAL)
    whole = PPM - LOCAL.weights.bounties_ppm
    assert abs(found.score.total_ppm - whole // 2) <= 3


def test_who_serves_already_is_not_counted_twice() -> None:
    mine = Serving(ME, "mine-1", "c", "cpu", ME)
    again = forecast(one_chute(mine), ME, ("c",), hardware="cpu", params=LOCAL)
    fresh = forecast(one_chute(), ME, ("c",), hardware="cpu", params=LOCAL)
    assert again == fresh


def test_a_bounty_goes_to_who_comes_first() -> None:
    picture = Picture((), (Wanted("c", instances=1, bounty_points=100),), 1_000)
    found = forecast(picture, ME, ("c",), hardware="cpu", params=LOCAL)
    assert found.score.bounties_ppm == LOCAL.weights.bounties_ppm


def test_serving_nothing_earns_nothing() -> None:
    found = forecast(one_chute(serving(7)), ME, (), hardware="cpu", params=LOCAL)
    assert (found.score.total_ppm, found.payout_nano, found.direct_nano) == (0, 0, 0)


def test_without_a_settled_epoch_the_score_is_known_and_the_money_is_not() -> None:
    found = forecast(one_chute(pool_nano=0), ME, ("c",), hardware="cpu", params=MAINNET)
    assert found.score.total_ppm > 0
    assert found.nano_per_day == 0


def test_standing_by_is_paid_only_to_as_many_as_are_wanted() -> None:
    crowd = tuple(serving(number) for number in range(1, 6))
    picture = Picture(crowd, (Wanted("c", instances=5, busy_us=0),), 1_000_000)
    found = forecast(picture, ME, ("c",), hardware="cpu", params=LOCAL)
    assert found.score.capacity_ppm == 0
    wider = replace(picture, wanted=(Wanted("c", instances=6, busy_us=0),))
    assert forecast(wider, ME, ("c",), hardware="cpu", params=LOCAL).score.capacity_ppm > 0


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abc")), max_size=12),
    st.lists(st.sampled_from("abc"), unique=True, max_size=3),
    st.integers(0, 10**12),
    st.integers(0, 10**9),
)
def test_nobody_is_promised_more_than_there_is(
    others: list[tuple[int, str]], chutes: list[str], pool_nano: int, busy_us: int
) -> None:
    there = tuple(
        replace(serving(number, chute), instance=f"i-{index}")
        for index, (number, chute) in enumerate(others)
    )
    wanted = tuple(Wanted(chute, instances=3, busy_us=busy_us) for chute in "abc")
    picture = Picture(there, wanted, pool_nano)
    found = forecast(picture, ME, tuple(chutes), hardware="cpu", params=LOCAL)
    assert 0 <= found.payout_nano <= pool_nano
    charged = pool_nano * PPM // LOCAL.fees.pool_ppm
    assert 0 <= found.direct_nano <= charged * LOCAL.fees.miner_ppm // PPM
    evidence = evidence_of(there, wanted, LOCAL)
    assert sum(one.total_ppm for one in score(evidence, LOCAL)) <= PPM
