"""The end of an epoch: usage, presences and bounties become targets and a roll. No waiting here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.market.offers import Offers
from penstock.market.ports import Chute
from penstock.market.usage import Counted
from penstock.spec.demand import Usage, asked, target
from penstock.spec.messages import Claimed, Manifest, Presence, Roll, Target, Targets
from penstock.spec.params import Params

ROLL_PRESENCES_MAX = 1_000
"""Presences in one part of a roll: 600 bytes each at most, so that a part fits the bus."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the market saw in one epoch. `chutes` are in the order of publishing, `targets` are
    those that were in force, `bounties` were outstanding, `roomy` are the instances that had room.
    """

    epoch: int
    chutes: Sequence[Chute]
    usage: Mapping[str, Counted]
    presences: Sequence[Presence]
    targets: Mapping[str, Target]
    bounties: Mapping[str, int]
    roomy: frozenset[str]


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

    `is_sponsored(owner)` says whether an owner's `instances_min` counts. A bounty goes to the miner
    of the instance that has been live the longest at the epoch's end, ties to the lower name:
    whoever claims must have stayed.
    """
    manifests = _effective(measured.chutes, is_sponsored)
    found = (
        (chute, _target(chute, manifest, measured=measured, offers=offers, params=params))
        for chute, manifest in manifests.items()
    )
    targets = tuple(replace(one, chute=chute) for chute, one in found if one is not None)
    claims = tuple(
        Claimed(miner=miner, chute=chute, points=points)
        for chute, points in sorted(measured.bounties.items())
        if (miner := _claimant(chute, offers))
    )
    return Outcome(
        targets=Targets(epoch=measured.epoch, targets=targets),
        rolls=_rolls(measured.epoch, _asked(measured, offers, manifests), claims),
        bounties={one.chute: one.bounty_points for one in targets if one.bounty_points},
    )


def _effective(chutes: Sequence[Chute], is_sponsored: Callable[[str], bool]) -> dict[str, Manifest]:
    """Manifests by chute as demand reads them: the minimum counts only where somebody pays for it,
    and only in the newest manifest of a name.
    """
    newest = {one.manifest.name: one.chute for one in chutes}
    return {
        one.chute: one.manifest
        if newest[one.manifest.name] == one.chute and is_sponsored(one.manifest.owner)
        else replace(one.manifest, instances_min=0)
        for one in chutes
    }


def _target(
    chute: str, manifest: Manifest, *, measured: Measured, offers: Offers, params: Params
) -> Target | None:
    """A chute's next target; None where there is nothing to say: nobody wants, uses or serves it."""
    counted = measured.usage.get(chute, Counted())
    serving = len(offers.serving(chute))
    previous = measured.targets.get(chute)
    if not (manifest.instances_min or serving or counted.requests or previous):
        return None
    usage = Usage(
        requests=counted.requests,
        refused=counted.refused,
        busy_us=counted.busy_us,
        serving=serving,
        parallel=manifest.limits.parallel_max,
    )
    found = target(manifest, usage, params=params, previous=previous)
    is_over = not (found.instances or serving or counted.requests)
    return None if is_over else found


def _asked(measured: Measured, offers: Offers, manifests: Mapping[str, Manifest]) -> list[Presence]:
    """Presences with `asked` set: live at the epoch's end, among the first that the target in force
    asked for, and with room at some time in the epoch (who never has room does not stand by).
    """
    chosen: set[tuple[str, str]] = set()
    for chute in {one.chute for one in measured.presences}:
        in_force = measured.targets.get(chute)
        minimum = manifests[chute].instances_min if chute in manifests else 0
        count = minimum if in_force is None else in_force.instances
        chosen.update((chute, name) for name in asked(offers.standing(chute), count))
    return [
        replace(one, asked=(one.chute, one.instance) in chosen and one.instance in measured.roomy)
        for one in measured.presences
    ]


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
