"""Which chutes this miner runs: those its owner wants by name, then what the market lacks.

Miners decide alone, from what the market publishes. So that they do not all rush to the same chute,
each waits by its rendezvous rank for that chute, and looks again before it starts: the order of the
miners is another one for each chute, and all of them compute the same. Going away works by the same
ranks from the other end. Everything here is a pure function of its arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from penstock.spec.messages import Manifest

RANK_STEP_BEATS = 3
"""How long a better-ranked miner may take from deciding to being seen, in heartbeats."""

WAIT_BEATS_MAX = 120
OVER_BEATS_MAX = 5
"""More supply than wanted must be seen this often in a row before an instance goes."""


@dataclass(frozen=True, slots=True)
class ChuteView:
    """One chute as the market shows it. `servers` holds one miner identity for each live instance."""

    chute: str
    manifest: Manifest
    wanted_instances: int
    servers: tuple[str, ...]

    @property
    def missing(self) -> int:
        return self.wanted_instances - len(self.servers)


@dataclass(frozen=True, slots=True)
class Placed:
    """An instance that this miner runs, whatever its state. `auto`: not asked for by name."""

    instance: str
    chute: str
    auto: bool


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this miner is and can run. `wanted` holds chute names and chute ids."""

    miner: str
    wanted: tuple[str, ...]
    auto: bool
    instances_max: int
    engines: frozenset[str]
    hardware: frozenset[str]


@dataclass(frozen=True, slots=True)
class Patience:
    """What is remembered from look to look: when a chute may be started, and how often in a row
    there were too many of an instance's chute.
    """

    start_at_ms: Mapping[str, int] = field(default_factory=dict)
    over_beats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `start` holds (chute, auto), `stop` instances."""

    start: tuple[tuple[str, bool], ...] = ()
    stop: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)


def rank(chute: str, miner: str, *, among: tuple[str, ...]) -> int:
    """The place of this miner for this chute, 0 first: by SHA-256 of (chute, miner), ties by name."""
    mine = _weight(chute, miner)
    return sum(1 for other in set(among) if other != miner and _weight(chute, other) < mine)


def can_run(manifest: Manifest, abilities: Abilities) -> bool:
    """An engine for it is installed and the hardware is of the class that it asks for."""
    return manifest.engine in abilities.engines and manifest.hardware in abilities.hardware


def plan(
    abilities: Abilities,
    chutes: tuple[ChuteView, ...],
    *,
    placed: tuple[Placed, ...],
    miners: tuple[str, ...],
    patience: Patience,
    at: tuple[int, int],
) -> Plan:
    """What to start and stop at `at` = (now_ms, beat_ms). Wanted chutes come before all others."""
    wanted = [
        view
        for view in chutes
        if (view.chute in abilities.wanted or view.manifest.name in abilities.wanted)
        and can_run(view.manifest, abilities)
    ]
    stop = _unwanted(placed, {view.chute for view in wanted})
    running = {one.chute for one in placed if one.instance not in stop}
    start = [(view.chute, False) for view in wanted if view.chute not in running]
    room = abilities.instances_max - len(placed) + len(stop)
    start = start[: max(room, 0)]
    if not abilities.auto:
        # What a former life placed by itself, before it was told to serve by name only.
        left = tuple(
            one.instance
            for one in placed
            if one.auto and one.chute not in {view.chute for view in wanted}
        )
        return Plan(start=tuple(start), stop=(*stop, *left), patience=Patience())
    over, leaving = _surplus(abilities.miner, chutes, placed=placed, patience=patience)
    taken = running | {chute for chute, _ in start}
    lacking = tuple(
        view
        for view in chutes
        if view.missing > 0 and view.chute not in taken and can_run(view.manifest, abilities)
    )
    due, waiting = _due(abilities.miner, lacking, miners=miners, patience=patience, at=at)
    auto = [(chute, True) for chute in due][: max(room - len(start), 0)]
    kept = Patience(start_at_ms=waiting, over_beats=over)
    return Plan(start=(*start, *auto), stop=(*stop, *leaving), patience=kept)


def forget(patience: Patience, chute: str) -> Patience:
    """The same without the wait for this chute: it was started, or failed and waits anew."""
    waits = {key: at for key, at in patience.start_at_ms.items() if key != chute}
    return replace(patience, start_at_ms=waits)


def _weight(chute: str, miner: str) -> tuple[bytes, str]:
    return sha256(f"{chute}\0{miner}".encode()).digest(), miner


def _unwanted(placed: tuple[Placed, ...], wanted: set[str]) -> tuple[str, ...]:
    """Instances that were started by name and whose name now means another chute, or nothing."""
    return tuple(one.instance for one in placed if not one.auto and one.chute not in wanted)


def _surplus(
    miner: str,
    chutes: tuple[ChuteView, ...],
    *,
    placed: tuple[Placed, ...],
    patience: Patience,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """(how long each automatic instance was one too many, those that go now)."""
    views = {view.chute: view for view in chutes}
    over: dict[str, int] = {}
    leaving: list[str] = []
    for one in placed:
        view = views.get(one.chute)
        if not one.auto or view is None or view.missing >= 0 or miner not in view.servers:
            continue
        over[one.instance] = patience.over_beats.get(one.instance, 0) + 1
        stays = rank(one.chute, miner, among=view.servers) < view.wanted_instances
        if over[one.instance] >= OVER_BEATS_MAX and not stays:
            leaving.append(one.instance)
    return over, tuple(leaving)


def _due(
    miner: str,
    lacking: tuple[ChuteView, ...],
    *,
    miners: tuple[str, ...],
    patience: Patience,
    at: tuple[int, int],
) -> tuple[list[str], dict[str, int]]:
    """(chutes to start now, when each lacking chute may be started).

    The first `missing` miners by rank start at once, the next as many a step later, and so on. A
    chute that is no longer lacking when the time comes is not in `lacking`, so nothing starts.
    """
    now_ms, beat_ms = at
    waiting: dict[str, int] = {}
    for view in lacking:
        steps = rank(view.chute, miner, among=miners) // view.missing
        wait_beats = min(steps * RANK_STEP_BEATS, WAIT_BEATS_MAX)
        waiting[view.chute] = patience.start_at_ms.get(view.chute, now_ms + wait_beats * beat_ms)
    return [chute for chute, start_at_ms in waiting.items() if start_at_ms <= now_ms], waiting
