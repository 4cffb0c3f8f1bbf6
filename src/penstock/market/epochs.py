"""The end of an epoch: usage, presences and bounties become targets and a roll. No waiting here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.market.offers import Offers
from penstock.market.ports import Chute
from penstock.market.usage import Counted
from penstock.spec.demand import Usage, asked, target
from penstock.spec.messages import Claimed, Presence, Roll, Target, Targets
from penstock.spec.params import Params

ROLL_PRESENCES_MAX = 1_000
"""Presences in one part of a roll: 600 bytes each at most, so that a part fits the bus."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the market saw in one epoch. `chutes` are in the order of publishing, `targets` are
    those that were in force, `bounties` were outstanding."""

    epoch: int
    chutes: Sequence[Chute]
    usage: Mapping[str, Counted]
    presences: Sequence[Presence]
    targets: Mapping[str, Target]
    bounties: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the market says about an epoch, and the bounties that are outstanding after it."""

    targets: Targets
    rolls: tuple[Roll, ...]
    bounties: dict[str, int]


def close_epoch(
    measured: Measured, offers: Offers, *, params: Params, is_sponsored: Callable[[str], bool]
) -> Outcome:
    """Targets for what comes next, and the roll of who was here.

    A name's older manifests want no instances of their own any more. `is_sponsored(owner)` says
    whether an owner's `instances_min` counts. A bounty goes to the miner of the instance that has
    been live the longest at the epoch's end, ties to the lower name: whoever claims must have stayed.
    """
    newest = {one.manifest.name: one.chute for one in measured.chutes}
    targets = []
    for one in measured.chutes:
        wanted = newest[one.manifest.name] == one.chute
        found = _target(one, measured, offers, params=params, is_wanted=wanted)
        if wanted and not is_sponsored(one.manifest.owner):
            found = _target(_unsponsored(one), measured, offers, params=params, is_wanted=True)
        if found is not None:
            targets.append(found)
    claims = tuple(
        Claimed(miner=miner, chute=chute, points=points)
        for chute, points in sorted(measured.bounties.items())
        if (miner := _claimant(chute, offers))
    )
    bounties = {one.chute: one.bounty_points for one in targets if one.bounty_points}
    return Outcome(
        targets=Targets(epoch=measured.epoch, targets=tuple(targets)),
        rolls=_rolls(measured.epoch, _asked(measured, offers), claims),
        bounties=bounties,
    )


def _unsponsored(one: Chute) -> Chute:
    return replace(one, manifest=replace(one.manifest, instances_min=0))


def _target(
    one: Chute, measured: Measured, offers: Offers, *, params: Params, is_wanted: bool
) -> Target | None:
    """A chute's next target; None for an old manifest that nobody uses or serves."""
    manifest = one.manifest if is_wanted else replace(one.manifest, instances_min=0)
    counted = measured.usage.get(one.chute, Counted())
    serving = len(offers.serving(one.chute))
    previous = measured.targets.get(one.chute)
    if not is_wanted and not serving and not counted.requests:
        return None
    usage = Usage(
        requests=counted.requests,
        refused=counted.refused,
        busy_us=counted.busy_us,
        serving=serving,
        parallel=manifest.limits.parallel_max,
    )
    found = target(manifest, usage, params=params, previous=previous)
    # The minimum that counts may differ from the signed one; the chute is the signed one's digest.
    return replace(found, chute=one.chute)


def _asked(measured: Measured, offers: Offers) -> list[Presence]:
    """Presences with `asked` set for those that the target in force asked for."""
    minimum = {one.chute: one.manifest.instances_min for one in measured.chutes}
    chosen: set[tuple[str, str]] = set()
    for chute in {one.chute for one in measured.presences}:
        in_force = measured.targets.get(chute)
        count = in_force.instances if in_force is not None else minimum.get(chute, 0)
        chosen.update((chute, name) for name in asked(offers.standing(chute), count))
    return [replace(one, asked=(one.chute, one.instance) in chosen) for one in measured.presences]


def _claimant(chute: str, offers: Offers) -> str:
    """The miner of the instance that came first, or "" when nobody serves."""
    serving = sorted(offers.serving(chute), key=lambda live: (live.since_ms, live.offer.instance))
    return serving[0].offer.miner if serving else ""


def _rolls(
    epoch: int, presences: Sequence[Presence], claims: tuple[Claimed, ...]
) -> tuple[Roll, ...]:
    """The roll in parts that fit the bus; the first one holds the claims."""
    parts = [
        tuple(presences[start : start + ROLL_PRESENCES_MAX])
        for start in range(0, max(1, len(presences)), ROLL_PRESENCES_MAX)
    ]
    return tuple(
        Roll(epoch=epoch, presences=part, bounties=() if number else claims)
        for number, part in enumerate(parts)
    )
