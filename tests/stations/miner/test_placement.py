"""Placement is a pure function: wanted chutes first, then what is lacking, by rendezvous rank."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST

from penstock.miner.placement import (
    OVER_BEATS_MAX,
    RANK_STEP_BEATS,
    WAIT_BEATS_MAX,
    Abilities,
    ChuteView,
    Patience,
    Placed,
    Plan,
    plan,
    rank,
)
from penstock.spec.messages import chute_id

BEAT_MS = 1_000
MINERS = tuple(f"miner-{number}" for number in range(12))
ABLE = Abilities(
    miner="me",
    wanted=(),
    auto=True,
    instances_max=4,
    engines=frozenset({"echo"}),
    hardware=frozenset({"cpu"}),
)


def chute_named(name: str) -> str:
    return chute_id(replace(MANIFEST, name=name))


def view(name: str, *, wanted: int = 0, servers: tuple[str, ...] = ()) -> ChuteView:
    manifest = replace(MANIFEST, name=name)
    return ChuteView(
        chute=chute_id(manifest), manifest=manifest, wanted_instances=wanted, servers=servers
    )


def planned(
    *views: ChuteView,
    able: Abilities = ABLE,
    placed: tuple[Placed, ...] = (),
    miners: tuple[str, ...] = ("me",),
    patience: Patience | None = None,
    now_ms: int = 0,
) -> Plan:
    return plan(
        able,
        views,
        placed=placed,
        miners=miners,
        patience=Patience() if patience is None else patience,
        at=(now_ms, BEAT_MS),
    )


def test_wanted_chutes_start_by_name_or_by_id_before_all_others() -> None:
    able = replace(ABLE, wanted=("b", chute_named("c")), instances_max=2)
    done = planned(view("a", wanted=5), view("b"), view("c"), able=able)
    assert done.start == ((chute_named("b"), False), (chute_named("c"), False))


def test_nothing_starts_beyond_the_bound() -> None:
    placed = (Placed("m-1", chute_named("x"), auto=True),)
    able = replace(ABLE, instances_max=3)
    done = planned(*(view(name, wanted=1) for name in "abcd"), able=able, placed=placed)
    assert len(done.start) == 2


def test_what_this_machine_cannot_run_is_never_started() -> None:
    wanting = replace(ABLE, wanted=("a",))
    for able in (
        replace(wanting, engines=frozenset()),
        replace(wanting, hardware=frozenset({"gpu"})),
    ):
        assert planned(view("a", wanted=9), able=able).start == ()


def test_without_auto_only_names_count() -> None:
    assert planned(view("a", wanted=9), able=replace(ABLE, auto=False)).start == ()


def test_a_chute_that_runs_here_is_not_started_again() -> None:
    placed = (Placed("m-1", chute_named("a"), auto=True),)
    assert planned(view("a", wanted=9), placed=placed).start == ()


def test_an_instance_whose_name_means_another_chute_now_is_replaced_at_once() -> None:
    placed = (Placed("m-1", "sha256:old", auto=False),)
    able = replace(ABLE, wanted=("a",), instances_max=1)
    done = planned(view("a"), able=able, placed=placed)
    assert (done.stop, done.start) == (("m-1",), ((chute_named("a"), False),))


def ranked(place: int, *, chute: str) -> str:
    """The miner that has this place among MINERS."""
    return sorted(MINERS, key=lambda miner: rank(chute, miner, among=MINERS))[place]


def test_the_wait_is_by_rank_and_the_first_wait_not_at_all() -> None:
    chute = chute_named("a")
    for place in (0, 1, 2, 5, 11):
        able = replace(ABLE, miner=ranked(place, chute=chute))
        first = planned(view("a", wanted=2), able=able, miners=MINERS)
        wait_ms = place // 2 * RANK_STEP_BEATS * BEAT_MS
        assert first.patience.start_at_ms == {chute: wait_ms}
        assert bool(first.start) == (wait_ms == 0)
        later = planned(
            view("a", wanted=2),
            able=able,
            miners=MINERS,
            patience=first.patience,
            now_ms=wait_ms,
        )
        assert later.start == ((chute, True),)


def test_a_chute_that_somebody_else_took_meanwhile_is_not_started() -> None:
    chute = chute_named("a")
    able = replace(ABLE, miner=ranked(3, chute=chute))
    first = planned(view("a", wanted=1), able=able, miners=MINERS)
    served = view("a", wanted=1, servers=(ranked(0, chute=chute),))
    later = planned(served, able=able, miners=MINERS, patience=first.patience, now_ms=10**9)
    assert later.start == ()
    assert later.patience.start_at_ms == {}


@given(count=st.integers(1, 400), missing=st.integers(1, 10))
def test_no_miner_waits_longer_than_the_bound_and_enough_start_at_once(
    count: int, missing: int
) -> None:
    miners = tuple(f"m{number}" for number in range(count))
    waits = [
        planned(view("a", wanted=missing), able=replace(ABLE, miner=one), miners=miners)
        for one in miners
    ]
    times = [one.patience.start_at_ms[chute_named("a")] for one in waits]
    assert max(times) <= WAIT_BEATS_MAX * BEAT_MS
    assert sum(1 for one in waits if one.start) >= min(missing, count)
    assert sum(1 for time in times if time == 0) == min(missing, count)


@given(st.permutations(MINERS))
def test_ranks_are_a_permutation_whatever_the_order_of_the_list(miners: list[str]) -> None:
    places = [rank("c", miner, among=tuple(miners)) for miner in MINERS]
    assert sorted(places) == list(range(len(MINERS)))
    assert places == [rank("c", miner, among=MINERS) for miner in MINERS]


def looks(miner: str, *, wanted: int, auto: bool = True, count: int = OVER_BEATS_MAX) -> Plan:
    """The plan after this many looks at a chute that all of MINERS serve."""
    placed = (Placed("m-1", chute_named("a"), auto=auto),)
    able = replace(ABLE, miner=miner, wanted=() if auto else ("a",))
    done = planned(able=able)
    for _ in range(count):
        done = planned(
            view("a", wanted=wanted, servers=MINERS),
            able=able,
            placed=placed,
            patience=done.patience,
        )
    return done


def test_when_there_are_too_many_exactly_the_last_ranks_go() -> None:
    stays = {miner for miner in MINERS if not looks(miner, wanted=5).stop}
    assert stays == {ranked(place, chute=chute_named("a")) for place in range(5)}


def test_an_instance_goes_only_after_several_looks_in_a_row() -> None:
    last = ranked(11, chute=chute_named("a"))
    assert looks(last, wanted=5, count=OVER_BEATS_MAX - 1).stop == ()
    assert looks(last, wanted=5).stop == ("m-1",)


def test_a_chute_that_was_asked_for_by_name_stays_however_many_serve_it() -> None:
    assert looks(ranked(11, chute=chute_named("a")), wanted=0, auto=False).stop == ()


def test_an_instance_that_the_market_does_not_see_yet_does_not_go() -> None:
    assert looks("stranger", wanted=1).stop == ()


def test_who_serves_by_name_only_lets_go_what_was_placed_by_itself() -> None:
    named, other = view("named", wanted=2), view("other", wanted=2)
    placed = (
        Placed(instance="i-1", chute=named.chute, auto=True),
        Placed(instance="i-2", chute=other.chute, auto=True),
    )
    able = replace(ABLE, auto=False, wanted=("named",))
    found = planned(named, other, able=able, placed=placed)
    assert found.stop == ("i-2",)
    assert found.start == ()
    assert planned(named, other, able=replace(able, auto=True), placed=placed).stop == ()
