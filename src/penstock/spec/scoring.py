"""Policy v1: a window of evidence becomes scores. Capacity 55 %, speed 20 %, availability 20 %,
bounties 5 %, each its own function.

Every function gives raw weights by miner; `score` shares out each part's budget by largest
remainder. No evidence means no share: what nobody has a claim to stays in the reserve. All weights
are sums over work, time or points, so splitting one miner into two gains nothing.
"""

from collections import defaultdict
from collections.abc import Mapping

from penstock.spec.evidence import Evidence, PresenceSum
from penstock.spec.medians import lower_median
from penstock.spec.messages import Score
from penstock.spec.params import Params
from penstock.spec.shares import split
from penstock.spec.units import PPM

NS_PER_US = 1000
NS_PER_MS = 1_000_000

REFERENCE_PPM = 1_000_000
"""The hardware weight of one general CPU node, and of hardware that nobody has proven."""

HARDWARE_PPM: Mapping[str, int] = {
    "cpu": REFERENCE_PPM,
    "nvidia-t4": 2_000_000,
    "nvidia-l4": 3_000_000,
    "nvidia-a10": 4_000_000,
    "nvidia-rtx-4090": 6_000_000,
    "nvidia-l40s": 9_000_000,
    "nvidia-a100": 12_000_000,
    "nvidia-h100": 20_000_000,
    "nvidia-h200": 25_000_000,
    "nvidia-b200": 40_000_000,
}
"""What an hour of a device is worth next to an hour of the reference. The table is closed: a name
that is not in it weighs as the reference. The market writes a dearer name into the roll only for
devices it has verified, so claiming one gains nothing."""


def hardware_ppm(hardware: str) -> int:
    """The weight of a kind of hardware; the reference's for an unknown name."""
    return HARDWARE_PPM.get(hardware, REFERENCE_PPM)


def devices_of(device: str) -> tuple[str, ...]:
    """The physical devices that an offer or a presence names: one, or several joined by `+`."""
    return tuple(device.split("+"))


def capacity(evidence: Evidence, params: Params) -> dict[str, int]:
    """Reference GPU-time in microseconds, by miner.

    Work time is work units times the network's median time per unit of that chute, so being slow is
    not more work. Idle time of instances the market asked for counts at `standby_ppm`; idle is what
    the asked time of a (miner, chute) exceeds its work time. Both are weighted by the hardware of
    the miner's instances of that chute, averaged over the beats seen (the reference when no beat
    was). Rounded down once per (miner, chute). More work never lowers it.

    Edges: a chute without a median has no work time. One device stands by once: see `_standing`.
    """
    work_ns: dict[tuple[str, str], int] = defaultdict(int)
    for (miner, chute, _), time_ns in _work_ns(evidence).items():
        work_ns[miner, chute] += time_ns
    asked_ns: dict[tuple[str, str], int] = defaultdict(int)
    for one in _standing(evidence.presences):
        asked_ns[one.miner, one.chute] += one.asked_beats * params.beat_ms * NS_PER_MS
    weights = _hardware_weights(evidence)
    sums: dict[str, int] = defaultdict(int)
    for miner, chute in sorted(work_ns.keys() | asked_ns.keys()):
        busy = work_ns.get((miner, chute), 0)
        idle = max(0, asked_ns.get((miner, chute), 0) - busy)
        weighted = (busy * PPM + idle * params.standby_ppm) * weights.get(
            (miner, chute), REFERENCE_PPM
        )
        sums[miner] += weighted // (PPM * PPM * NS_PER_US)
    return dict(sums)


def speed(evidence: Evidence, params: Params) -> dict[str, int]:
    """Work time weighted by how fast it was, in microseconds, by miner.

    In each (chute, bucket) the ratio is the lower median of the miners' medians over the miner's own
    median, in ppm, rounded down, clamped to 0..`speed_ratio_max_ppm`. A miner alone in a bucket has
    a ratio of exactly one. Work that was never measured has no ratio and no weight.
    """
    medians: dict[tuple[str, int], list[int]] = defaultdict(list)
    for work in evidence.works:
        if work.median_ns_per_unit:
            medians[work.chute, work.bucket].append(work.median_ns_per_unit)
    work_ns = _work_ns(evidence)
    sums: dict[str, int] = defaultdict(int)
    for work in evidence.works:
        time_ns = work_ns.get((work.miner, work.chute, work.bucket), 0)
        if not work.median_ns_per_unit or not time_ns:
            continue
        network = lower_median(medians[work.chute, work.bucket])
        ratio_ppm = min(network * PPM // work.median_ns_per_unit, params.speed_ratio_max_ppm)
        sums[work.miner] += time_ns * ratio_ppm // (PPM * NS_PER_US)
    return dict(sums)


def availability(evidence: Evidence, params: Params) -> dict[str, int]:
    """Success rate times presence, weighted by capacity, by miner. Rounded down once.

    Both must have been measured: a miner without attempts, or without beats due, has no share,
    because a missing measurement is never neutral.
    """
    seen: dict[str, int] = defaultdict(int)
    due: dict[str, int] = defaultdict(int)
    for one in evidence.presences:
        seen[one.miner] += one.beats_seen
        due[one.miner] += one.beats_due
    weights = capacity(evidence, params)
    sums = {}
    for served in evidence.served:
        miner = served.miner
        if served.attempts and due.get(miner) and weights.get(miner):
            proven = weights[miner] * min(served.successes, served.attempts) * seen[miner]
            sums[miner] = proven // (served.attempts * due[miner])
    return sums


def bounties(evidence: Evidence) -> dict[str, int]:
    """Bounty points claimed, by miner."""
    return {one.miner: one.points for one in evidence.bounties}


def score(evidence: Evidence, params: Params) -> tuple[Score, ...]:
    """Scores of every miner the evidence names, sorted by miner; zeros are listed too.

    Each part's budget is shared out by largest remainder, ties to the smaller identity. A part that
    nobody has evidence for stays unassigned. The parts of a score add up to its total; the totals
    add up to at most 1_000_000.

    Failed miners are zeroed after the sharing: what they would have had stays in the reserve, so
    that nobody gains from a rival's conviction, and nobody loses by it either.
    """
    shares = {
        "capacity": split(params.weights.capacity_ppm, capacity(evidence, params)),
        "speed": split(params.weights.speed_ppm, speed(evidence, params)),
        "availability": split(params.weights.availability_ppm, availability(evidence, params)),
        "bounties": split(params.weights.bounties_ppm, bounties(evidence)),
    }
    failed = frozenset(evidence.failed)
    return tuple(
        _score_of(miner, shares) if miner not in failed else _score_of(miner, {})
        for miner in _miners(evidence)
    )


def _score_of(miner: str, shares: Mapping[str, Mapping[str, int]]) -> Score:
    parts = {
        part: shares.get(part, {}).get(miner, 0)
        for part in ("capacity", "speed", "availability", "bounties")
    }
    return Score(
        miner=miner,
        total_ppm=sum(parts.values()),
        capacity_ppm=parts["capacity"],
        speed_ppm=parts["speed"],
        availability_ppm=parts["availability"],
        bounties_ppm=parts["bounties"],
    )


def _miners(evidence: Evidence) -> list[str]:
    named: set[str] = set(evidence.failed)
    for table in (evidence.works, evidence.served, evidence.presences, evidence.bounties):
        named.update(one.miner for one in table)
    return sorted(named)


def _work_ns(evidence: Evidence) -> dict[tuple[str, str, int], int]:
    """Reference work time by (miner, chute, bucket), nanoseconds."""
    medians = {median.chute: median.ns_per_unit for median in evidence.medians}
    return {
        (work.miner, work.chute, work.bucket): work.work_units * medians[work.chute]
        for work in evidence.works
        if work.chute in medians
    }


def _standing(presences: tuple[PresenceSum, ...]) -> tuple[PresenceSum, ...]:
    """The one presence that counts for each device: the most asked beats, so that a newcomer who
    names somebody else's device gains nothing; ties to the lowest miner, instance, then chute.

    Edge: one on several devices counts only if none of them counts already.
    """
    standing: list[PresenceSum] = []
    counted: set[str] = set()
    for one in sorted(
        presences, key=lambda one: (-one.asked_beats, one.miner, one.instance, one.chute)
    ):
        devices = devices_of(one.device)
        if counted.isdisjoint(devices):
            counted.update(devices)
            standing.append(one)
    return tuple(standing)


def _hardware_weights(evidence: Evidence) -> dict[tuple[str, str], int]:
    """Hardware weight by (miner, chute), averaged over the beats seen, rounded down."""
    beats: dict[tuple[str, str], int] = defaultdict(int)
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for one in evidence.presences:
        beats[one.miner, one.chute] += one.beats_seen
        sums[one.miner, one.chute] += one.beats_seen * hardware_ppm(one.hardware)
    return {key: sums[key] // count for key, count in beats.items() if count}
