"""The rule of eviction, as properties: never what is in use, never in vain, the least used first."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.weights.eviction import Kept, evictions, freed_bytes, held_bytes

SIZES = {f"b{number}": size for number, size in enumerate([1, 2, 3, 5, 8, 13, 21, 0])}


@st.composite
def caches(draw: st.DrawFn) -> list[Kept]:
    """Up to eight models over a few shared files, used at a few moments (so that there are ties)."""
    count = draw(st.integers(0, 8))
    return [
        Kept(
            digest=f"m{number}",
            blobs={name: SIZES[name] for name in draw(st.sets(st.sampled_from(sorted(SIZES))))},
            used_ms=draw(st.integers(0, 3)),
            is_pinned=draw(st.booleans()),
        )
        for number in range(count)
    ]


NEEDS = st.integers(-5, 60)


@given(kept=caches(), need=NEEDS)
def test_it_is_enough_or_nothing_is_dropped_at_all(kept: list[Kept], need: int) -> None:
    dropped = evictions(kept, need_bytes=need)
    everything = {one.digest for one in kept if not one.is_pinned}
    if dropped is None:
        assert freed_bytes(kept, everything) < need
    else:
        assert freed_bytes(kept, set(dropped)) >= need


@given(kept=caches(), need=NEEDS)
def test_what_is_in_use_stays_with_all_its_files(kept: list[Kept], need: int) -> None:
    dropped = set(evictions(kept, need_bytes=need) or ())
    assert not dropped & {one.digest for one in kept if one.is_pinned}
    left = [one for one in kept if one.digest not in dropped]
    assert freed_bytes(kept, dropped) == held_bytes(kept) - held_bytes(left)


@given(kept=caches(), need=NEEDS)
def test_none_is_dropped_that_the_others_can_do_without(kept: list[Kept], need: int) -> None:
    dropped = set(evictions(kept, need_bytes=need) or ())
    for one in dropped:
        assert freed_bytes(kept, dropped - {one}) < need


@given(kept=caches(), need=NEEDS)
def test_a_fresher_model_goes_only_if_the_staler_ones_are_not_enough(
    kept: list[Kept], need: int
) -> None:
    dropped = evictions(kept, need_bytes=need)
    if dropped:
        order = {one.digest: (one.used_ms, one.digest) for one in kept}
        freshest = max(order[digest] for digest in dropped)
        staler = {one.digest for one in kept if not one.is_pinned and order[one.digest] < freshest}
        assert freed_bytes(kept, staler) < need
        assert list(dropped) == sorted(dropped, key=order.__getitem__)


@given(kept=caches(), need=NEEDS)
def test_the_order_of_the_list_says_nothing(kept: list[Kept], need: int) -> None:
    assert evictions(kept, need_bytes=need) == evictions(kept[::-1], need_bytes=need)


def test_a_large_old_model_spares_the_small_older_one() -> None:
    small = Kept("small", {"a": 1}, used_ms=1, is_pinned=False)
    large = Kept("large", {"b": 100}, used_ms=2, is_pinned=False)
    assert evictions([small, large], need_bytes=50) == ("large",)


def test_a_shared_file_comes_free_with_its_last_holder_only() -> None:
    one = Kept("one", {"shared": 10, "a": 1}, used_ms=1, is_pinned=False)
    two = Kept("two", {"shared": 10, "b": 1}, used_ms=2, is_pinned=False)
    assert freed_bytes([one, two], {"one"}) == 1
    assert evictions([one, two], need_bytes=5) == ("one", "two")
    pinned = Kept("two", {"shared": 10}, used_ms=2, is_pinned=True)
    assert evictions([one, pinned], need_bytes=5) is None
