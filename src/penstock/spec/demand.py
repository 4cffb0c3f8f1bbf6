"""What miners should host: an epoch's usage of a chute becomes a target, a price and a bounty.

The rule is simple on purpose: whoever reads the published targets can do the sum by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.spec.messages import Manifest, Target, chute_id
from penstock.spec.params import Params
from penstock.spec.units import PPM

US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class Usage:
    """One epoch of one chute. `requests` includes the `refused` (those that found no room);
    `busy_us` is the time of all answers, `parallel` how many one instance answers at once.
    """

    requests: int
    refused: int
    busy_us: int
    serving: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A live instance, and since when it has been here (Unix ms)."""

    instance: str
    since_ms: int


def utilisation_ppm(*, busy_us: int, serving: int, parallel: int, epoch_ms: int) -> int:
    """Busy time over the time all instances had, in ppm, rounded down; 0 when nothing serves."""
    had_us = serving * parallel * epoch_ms * US_PER_MS
    return busy_us * PPM // had_us if had_us > 0 else 0


def target(manifest: Manifest, usage: Usage, *, params: Params, previous: Target | None) -> Target:
    """The next epoch's target for a chute, within `instances_min`..`instances_max`.

    * Short (refusals, or utilisation above `utilisation_high_ppm`): up by one, or by the refused
      part of the requests if that is more, rounded up. A target that is not met yet is not raised.
    * Idle (no refusals and utilisation below `utilisation_low_ppm`) for this epoch and the last:
      down by one.
    * The reference price rises a step while the chute is short or its target is not met, and falls a
      step while it is served and idle, within `price_min_ppm`..`price_max_ppm`.
    * A wanted chute that nobody serves carries `bounty_points`.
    """
    before = manifest.instances_min if previous is None else previous.instances
    is_short, is_idle = _pressure(usage, params)
    instances = before
    if is_short and usage.serving >= before:
        instances = before + max(1, -(-before * usage.refused // max(1, usage.requests)))
    elif is_idle and _was_idle(previous, usage.parallel, params):
        instances = before - 1
    instances = min(max(instances, manifest.instances_min), manifest.instances_max)
    price = PPM if previous is None else previous.price_ppm
    if is_short or usage.serving < instances:
        price += params.price_step_ppm
    elif is_idle and usage.serving > 0:
        price -= params.price_step_ppm
    return Target(
        chute=chute_id(manifest),
        instances=instances,
        serving=usage.serving,
        price_ppm=min(max(price, params.price_min_ppm), params.price_max_ppm),
        bounty_points=params.bounty_points if instances > 0 and usage.serving == 0 else 0,
        requests=usage.requests,
        refused=usage.refused,
        busy_us=usage.busy_us,
    )


def _pressure(usage: Usage, params: Params) -> tuple[bool, bool]:
    """(short, idle). Edge: at exactly a threshold it is neither."""
    level = utilisation_ppm(
        busy_us=usage.busy_us,
        serving=usage.serving,
        parallel=usage.parallel,
        epoch_ms=params.epoch_ms,
    )
    is_short = usage.refused > 0 or level > params.utilisation_high_ppm
    return is_short, not is_short and level < params.utilisation_low_ppm


def _was_idle(previous: Target | None, parallel: int, params: Params) -> bool:
    if previous is None:
        return False
    usage = Usage(
        requests=previous.requests,
        refused=previous.refused,
        busy_us=previous.busy_us,
        serving=previous.serving,
        parallel=parallel,
    )
    return _pressure(usage, params)[1]


def asked(standing: Iterable[Standing], instances: int) -> tuple[str, ...]:
    """The instances a target asks for: the first `instances` by when they came, then by name."""
    ranked = sorted(standing, key=lambda one: (one.since_ms, one.instance))
    return tuple(one.instance for one in ranked[: max(0, instances)])
