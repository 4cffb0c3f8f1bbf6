"""The sample: everybody draws his own, enough of it, and the ledger cannot choose what is in it."""

from penstock.client.segments import Leaf
from penstock.spec.entries import Entry, EntryKind
from penstock.validator.recheck import SAMPLE_RECORDS_MIN, Sample, sample_seed

ROOT = b"r" * 32


def sample(count: int, *, share_ppm: int, seed: bytes = b"s" * 32) -> list[int]:
    drawn = Sample(seed, share_ppm)
    for seq in range(count):
        drawn.offer(Leaf(seq, b"", Entry(EntryKind.RECORD, f"o-{seq}", {}), None))
    return [leaf.seq for leaf in drawn.leaves()]


def test_a_small_epoch_is_judged_whole() -> None:
    for count in (0, 1, SAMPLE_RECORDS_MIN):
        assert sample(count, share_ppm=1) == list(range(count))


def test_at_least_twenty_records_are_drawn() -> None:
    assert len(sample(5_000, share_ppm=0)) == SAMPLE_RECORDS_MIN
    assert len(sample(5_000, share_ppm=1_000)) == SAMPLE_RECORDS_MIN


def test_of_many_records_the_share_is_drawn_in_the_order_of_the_log() -> None:
    drawn = sample(20_000, share_ppm=100_000)
    assert 1_700 < len(drawn) < 2_300
    assert drawn == sorted(set(drawn))
    assert len(sample(500, share_ppm=1_000_000)) == 500


def test_the_draw_is_the_same_each_time_and_another_for_each_validator_epoch_and_root() -> None:
    seeds = {
        sample_seed(ROOT, "a", 1),
        sample_seed(ROOT, "b", 1),
        sample_seed(ROOT, "a", 2),
        sample_seed(b"x" * 32, "a", 1),
    }
    assert len(seeds) == 4
    draws = [sample(1_000, share_ppm=20_000, seed=seed) for seed in sorted(seeds)]
    assert draws == [sample(1_000, share_ppm=20_000, seed=seed) for seed in sorted(seeds)]
    assert len({tuple(draw) for draw in draws}) == 4


def test_every_record_is_as_likely_as_any_other() -> None:
    hits = [0] * 100
    for number in range(300):
        for seq in sample(100, share_ppm=0, seed=bytes([number % 256, number // 256])):
            hits[seq] += 1
    assert sum(hits) == 300 * SAMPLE_RECORDS_MIN
    assert min(hits) > 25
    assert max(hits) < 100
