"""What scoring reads: the judged records and rolls of a window, summed into small integer tables.

`gather` is the law: slow, obvious, the one that decides. Faster twins must give equal Evidence.
Every table is sorted by all its fields, so equal evidence has equal bytes in whatever order records
came in. A measurement that is missing is left out, never filled in.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from penstock.spec.canon import canonical, digest, to_plain
from penstock.spec.entries import Row
from penstock.spec.medians import lower_median
from penstock.spec.messages import Roll


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of one miner for one chute in one size bucket.

    `median_ns_per_unit` is the lower median of its measured answers there, 0 when none was measured.
    """

    miner: str
    chute: str
    bucket: int
    requests: int
    work_units: int
    median_ns_per_unit: int


@dataclass(frozen=True, slots=True)
class Median:
    """The network's lower median over all measured answers of a chute, nanoseconds per work unit."""

    chute: str
    ns_per_unit: int


@dataclass(frozen=True, slots=True)
class Served:
    """Orders that say something about a miner's availability, and how many of them it completed."""

    miner: str
    attempts: int
    successes: int


@dataclass(frozen=True, slots=True)
class PresenceSum:
    """Heartbeats of one instance over the window. `asked_beats` were seen while it was asked for."""

    miner: str
    instance: str
    chute: str
    device: str
    hardware: str
    beats_seen: int
    beats_due: int
    asked_beats: int


@dataclass(frozen=True, slots=True)
class BountySum:
    """Bounty points a miner claimed in the window."""

    miner: str
    points: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The whole input of scoring. Sorted tuples; `failed` are miners with a proven verdict."""

    works: tuple[Work, ...]
    medians: tuple[Median, ...]
    served: tuple[Served, ...]
    presences: tuple[PresenceSum, ...]
    bounties: tuple[BountySum, ...]
    failed: tuple[str, ...]


def gather(rows: Iterable[Row], rolls: Iterable[Roll], *, failed: Iterable[str]) -> Evidence:
    """Sum up a window. The order of rows and rolls does not matter.

    Only rows with work units are work; of those, only rows with ns_per_unit above 0 are measured.
    Only rows that count are attempts. Each roll must be given once: nothing here removes doubles.
    """
    times: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    units: dict[tuple[str, str, int], int] = defaultdict(int)
    attempts: dict[str, int] = defaultdict(int)
    successes: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.counts:
            attempts[row.miner] += 1
            successes[row.miner] += row.success
        if row.work_units:
            key = (row.miner, row.chute, row.bucket)
            times[key].append(row.ns_per_unit)
            units[key] += row.work_units
    by_chute: dict[str, list[int]] = defaultdict(list)
    for (_, chute, _), measured in times.items():
        by_chute[chute].extend(ns for ns in measured if ns)
    presences, bounties = sum_rolls(rolls)
    return Evidence(
        works=tuple(_work(key, times[key], units[key]) for key in sorted(times)),
        medians=tuple(
            Median(chute=chute, ns_per_unit=lower_median(measured))
            for chute, measured in sorted(by_chute.items())
            if measured
        ),
        served=tuple(
            Served(miner=miner, attempts=count, successes=successes[miner])
            for miner, count in sorted(attempts.items())
        ),
        presences=presences,
        bounties=bounties,
        failed=tuple(sorted(set(failed))),
    )


def _work(key: tuple[str, str, int], times: list[int], units: int) -> Work:
    measured = [ns for ns in times if ns]
    return Work(
        miner=key[0],
        chute=key[1],
        bucket=key[2],
        requests=len(times),
        work_units=units,
        median_ns_per_unit=lower_median(measured) if measured else 0,
    )


def sum_rolls(
    rolls: Iterable[Roll],
) -> tuple[tuple[PresenceSum, ...], tuple[BountySum, ...]]:
    """Presences by (miner, instance, chute, device, hardware), and bounty points by miner.

    Edge: more beats seen than due count as due, and negative numbers as 0, so that a faulty roll can
    never make anybody more than present.
    """
    beats: dict[tuple[str, str, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    points: dict[str, int] = defaultdict(int)
    for roll in rolls:
        for one in roll.presences:
            due = max(0, one.beats_due)
            seen = min(max(0, one.beats_seen), due)
            sums = beats[one.miner, one.instance, one.chute, one.device, one.hardware]
            sums[0] += seen
            sums[1] += due
            sums[2] += seen if one.asked else 0
        for claim in roll.bounties:
            points[claim.miner] += max(0, claim.points)
    presences = tuple(
        PresenceSum(*key, beats_seen=seen, beats_due=due, asked_beats=asked)
        for key, (seen, due, asked) in sorted(beats.items())
    )
    bounties = tuple(BountySum(miner=miner, points=sum_) for miner, sum_ in sorted(points.items()))
    return presences, bounties


def evidence_digest(evidence: Evidence) -> str:
    """Hex digest of the evidence; a report names it. Raises NotCanonical beyond 2**53 - 1.

    Each table is hashed row by row (canonical row, newline) and the digest covers the tables'
    hashes by name, so no table is too long for one canonical value.
    """
    plain = to_plain(evidence)
    tables = {}
    for name, rows in plain.items():
        running = sha256()
        for row in rows:
            running.update(canonical(row) + b"\n")
        tables[name] = running.hexdigest()
    return digest("evidence", tables).hex()
