"""What a miner would score and earn: the published law over what the market shows now.

It is the scoring function itself (`spec.scoring`), given the evidence of one more epoch like the last
one with this miner in it. So it is as right as its assumptions, which come with it in words: demand
stays, nobody else comes or goes, everybody answers as fast as the others and is always there.
"""

from dataclasses import dataclass

from penstock.spec.evidence import BountySum, Evidence, Median, PresenceSum, Served, Work
from penstock.spec.messages import Score
from penstock.spec.params import Params
from penstock.spec.scoring import score
from penstock.spec.shares import split_ppm
from penstock.spec.units import PPM

DAY_MS = 86_400_000
NS_PER_UNIT = 1_000
BUCKET = 10
ATTEMPTS = 1_000
"""Of every miner alike: all answers succeed."""
ASSUMPTIONS = (
    "demand stays as it was in the last epoch that the market closed",
    "nobody else comes or goes; work is shared evenly among the instances of a chute",
    "all miners are equally fast, always there, and complete every answer",
    "the pool of an epoch is that of the last settled one",
)


@dataclass(frozen=True, slots=True)
class Serving:
    """One instance that is offered. `device` is what stands by once, however many chutes it serves."""

    miner: str
    instance: str
    chute: str
    hardware: str
    device: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the market says of a chute: instances, and the last epoch's work."""

    chute: str
    instances: int = 0
    busy_us: int = 0
    bounty_points: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """The market now. `serving` in the order in which they came, as far as one knows it. `pool_nano` is
    what the last settled epoch paid out by score.
    """

    serving: tuple[Serving, ...]
    wanted: tuple[Wanted, ...]
    pool_nano: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Per epoch. `payout_nano` is of the pool, `direct_nano` the miner's part of charges."""

    score: Score
    payout_nano: int
    direct_nano: int
    epoch_ms: int
    pool_nano: int

    @property
    def nano_per_day(self) -> int:
        return (self.payout_nano + self.direct_nano) * DAY_MS // self.epoch_ms


def forecast(
    picture: Picture, miner: str, chutes: tuple[str, ...], *, hardware: str, params: Params
) -> Forecast:
    """What `miner` would have of an epoch if it also served these chutes, one instance of each."""
    others = [one for one in picture.serving if one.miner != miner]
    mine = [Serving(miner, f"{miner}/{chute}", chute, hardware, miner) for chute in chutes]
    serving = (*others, *mine)
    evidence = evidence_of(serving, picture.wanted, params)
    found = next(
        (one for one in score(evidence, params) if one.miner == miner), Score(miner, 0, 0, 0, 0, 0)
    )
    payout = split_ppm(picture.pool_nano, {miner: found.total_ppm})[miner]
    busy = {one.chute: one.busy_us for one in picture.wanted}
    counts = {one: sum(each.chute == one for each in serving) for one in busy}
    all_us = sum(busy.values())
    mine_us = sum(busy.get(one, 0) // counts[one] for one in chutes if counts.get(one))
    # The pool is a fixed part of all charges, so it says what was charged in all.
    fees = params.fees
    charged_nano = picture.pool_nano * PPM // fees.pool_ppm if fees.pool_ppm else 0
    direct = charged_nano * fees.miner_ppm // PPM * mine_us // all_us if all_us else 0
    return Forecast(found, payout, direct, params.epoch_ms, picture.pool_nano)


def evidence_of(
    serving: tuple[Serving, ...], wanted: tuple[Wanted, ...], params: Params
) -> Evidence:
    """One epoch in which all of these were there, and shared the work of their chutes evenly."""
    beats = max(params.epoch_ms // params.beat_ms, 1)
    by_chute: dict[str, list[Serving]] = {}
    for one in serving:
        by_chute.setdefault(one.chute, []).append(one)
    works: dict[tuple[str, str], int] = {}
    asked: set[str] = set()
    bounties: dict[str, int] = {}
    for want in wanted:
        there = by_chute.get(want.chute, [])
        asked.update(one.instance for one in there[: want.instances])
        for one in there:
            key = (one.miner, one.chute)
            units = want.busy_us * 1_000 // len(there) // NS_PER_UNIT
            works[key] = works.get(key, 0) + units
        if want.bounty_points and there:
            bounties[there[0].miner] = bounties.get(there[0].miner, 0) + want.bounty_points
    return Evidence(
        works=tuple(
            Work(miner, chute, BUCKET, 1, units, NS_PER_UNIT)
            for (miner, chute), units in sorted(works.items())
            if units
        ),
        medians=tuple(Median(chute, NS_PER_UNIT) for chute in sorted(by_chute)),
        served=tuple(
            Served(miner, ATTEMPTS, ATTEMPTS) for miner in sorted({one.miner for one in serving})
        ),
        presences=tuple(
            PresenceSum(
                miner=one.miner,
                instance=one.instance,
                chute=one.chute,
                device=one.device,
                hardware=one.hardware,
                beats_seen=beats,
                beats_due=beats,
                asked_beats=beats if one.instance in asked else 0,
            )
            for one in sorted(serving, key=lambda one: (one.miner, one.instance))
        ),
        bounties=tuple(BountySum(miner, points) for miner, points in sorted(bounties.items())),
        failed=(),
    )
