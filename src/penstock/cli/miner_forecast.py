"""What a machine would serve in a market, what that would bring, and how it was computed, in words."""

from dataclasses import dataclass
from typing import Any

from penstock.adapters.engines.catalogue import EngineKind
from penstock.cli.output import usd
from penstock.miner.forecast import ASSUMPTIONS, Forecast, Picture, forecast
from penstock.miner.hardware import Hardware
from penstock.miner.placement import Abilities, ChuteView, can_run
from penstock.miner.view import MarketView
from penstock.spec.params import Params
from penstock.spec.units import PPM

CHUTES_MAX = 4
Seen = tuple[MarketView, Picture]
"""The market as `look_at` shows it."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The chutes by name, and the forecast for all of them together."""

    chutes: tuple[ChuteView, ...]
    forecast: Forecast


def outlook(
    seen: Seen, hardware: Hardware, params: Params, *, names: tuple[str, ...], miner: str
) -> Outlook:
    """What would run: the named chutes, else what the market lacks, else what it asks most work of.
    What this miner serves already is not counted twice.
    """
    view, picture = seen
    abilities = Abilities(
        miner=miner,
        wanted=names,
        auto=not names,
        instances_max=CHUTES_MAX,
        engines=frozenset(kind.value for kind in EngineKind),
        hardware=hardware.classes,
    )
    fit = [one for one in view.chutes if can_run(one.manifest, abilities)]
    if names:
        chosen = [one for one in fit if one.chute in names or one.manifest.name in names]
    else:
        wanted = [one for one in fit if one.wanted_instances > 0]
        wanted.sort(key=lambda one: (-one.missing, -view.demand[one.chute].busy_us))
        chosen = wanted[:CHUTES_MAX]
    found = forecast(
        picture,
        miner,
        tuple(one.chute for one in chosen),
        hardware=hardware.kind,
        params=params,
    )
    return Outlook(tuple(chosen), found)


def outlook_plain(one: Outlook) -> dict[str, Any]:
    """The same for --json."""
    found = one.forecast
    score = found.score
    return {
        "chutes": [view.manifest.name for view in one.chutes],
        "score_ppm": score.total_ppm,
        "capacity_ppm": score.capacity_ppm,
        "speed_ppm": score.speed_ppm,
        "availability_ppm": score.availability_ppm,
        "bounties_ppm": score.bounties_ppm,
        "pool_nano_per_epoch": found.pool_nano,
        "payout_nano_per_epoch": found.payout_nano,
        "direct_nano_per_epoch": found.direct_nano,
        "epoch_ms": found.epoch_ms,
        "nano_per_day": found.nano_per_day,
        "assumptions": list(ASSUMPTIONS),
    }


def outlook_lines(one: Outlook) -> list[str]:
    """How the sum came about, so that it can be done by hand."""
    found = one.forecast
    score = found.score
    if not one.chutes:
        return ["The market wants nothing now that this machine can run; the miner would wait."]
    names = ", ".join(view.manifest.name for view in one.chutes)
    epoch_s = found.epoch_ms // 1_000
    parts = {
        "capacity": score.capacity_ppm,
        "speed": score.speed_ppm,
        "availability": score.availability_ppm,
        "bounties": score.bounties_ppm,
    }
    told = " + ".join(f"{name} {percent(ppm)}" for name, ppm in parts.items())
    return [
        f"It would serve {names}.",
        f"score    {percent(score.total_ppm)} = {told}",
        f"payout   {usd(found.payout_nano)} an epoch: that part of a pool of {usd(found.pool_nano)}",
        f"charges  {usd(found.direct_nano)} an epoch: your part of the work, after fees",
        f"earnings {usd(found.nano_per_day)} a day: both, over epochs of {epoch_s} s",
        "if: " + "; ".join(ASSUMPTIONS) + ".",
    ]


def percent(ppm: int) -> str:
    """`12.34 %`."""
    return f"{ppm * 100 // PPM}.{ppm * 10_000 // PPM % 100:02d} %"
