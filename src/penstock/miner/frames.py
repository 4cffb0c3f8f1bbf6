"""One look at a running miner: cards, instances, throughput and earnings, as plain values.

It is what `penstock miner top` draws and what its `--json` prints: the keys are always there, and a
value that nobody knows is null, never guessed.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.kit.hardware import GpuReading, HostReading, Reading, busy_ppm
from penstock.miner.earnings import Earnings, Sum, Totals, read_totals
from penstock.miner.hardware import Hardware
from penstock.miner.instance import Instance
from penstock.miner.maintenance import Maintenance
from penstock.miner.service import Miner
from penstock.spec.units import PPM

LOOK_MS = 2_000
RECOUNT_MS = 1_000
LOOKS_MAX = 80
RATES_MS = 60_000
"""What rates are made from."""
DAY_HOURS = 24
WEEK_HOURS = 168
NAMES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Look:
    """What was counted and read at one moment (monotonic ms)."""

    at_ms: int
    totals: Totals
    reading: Reading


@dataclass(slots=True)
class Watch:
    """Looks at a miner now and then; makes frames of what it has seen."""

    miner: Miner
    read: Callable[[], Awaitable[Reading]]
    """Asks the drivers, which may take their time."""
    earnings: Earnings
    maintenance: Maintenance
    pid: int = 0
    _looks: deque[Look] = field(default_factory=lambda: deque(maxlen=LOOKS_MAX))
    _names: dict[str, None] = field(default_factory=dict)

    def look(self, reading: Reading) -> None:
        """Count and remember; `reading` is fresh."""
        parts = self.miner.parts
        for one in parts.fleet.instances.values():
            if len(self._names) < NAMES_MAX:
                self._names[one.manifest.name] = None
        totals = read_totals(self.miner.metrics, frozenset(self._names))
        now_ms = parts.time.now_ms()
        look = Look(parts.time.mono_us() // 1_000, totals, reading)
        before = self._looks[-1] if self._looks else None
        self._looks.append(look)
        self.earnings.count(totals, now_ms=now_ms)
        if before is not None:
            self.earnings.ran(
                took_ms=look.at_ms - before.at_ms, power_mw=power_mw(reading), now_ms=now_ms
            )

    def frame(self) -> dict[str, Any]:
        """Everything there is to see: counted now, read from the drivers at the last look."""
        self.recount()
        miner, parts = self.miner, self.miner.parts
        now_ms = parts.time.now_ms()
        reading = self._looks[-1].reading if self._looks else Reading(HostReading(), ())
        health = miner.health()
        window = self.maintenance.window
        is_past = window is not None and window.until_ms <= now_ms
        return {
            "now_ms": now_ms,
            "pid": self.pid,
            "name": miner.config.name,
            "miner": miner.ports.key.identity,
            "owner": parts.deployment.owner or miner.ports.key.identity,
            "market_url": miner.config.market_url,
            "endpoint": miner.endpoint,
            "status": health["status"],
            "problems": [*health["problems"], *self._own_problems()],
            "gpus": gpus_seen(miner.hardware, reading),
            "host": self._host(reading),
            "instances": [instance_seen(one, health_of) for one, health_of in self._paired(health)],
            "rates": self._rates(),
            "earnings": self._earned(now_ms),
            "costs": {
                "power_usd_per_kwh_nano": self.earnings.costs.power_nano_per_kwh,
                "rent_usd_per_hour_nano": self.earnings.costs.rent_nano_per_hour,
                "power_mw": power_mw(reading) or self.earnings.costs.power_declared_mw or None,
                "power_is_measured": power_mw(reading) is not None,
            },
            "maintenance": None
            if window is None or is_past
            else {
                "from_ms": window.from_ms,
                "until_ms": window.until_ms,
                "is_on": window.is_on(now_ms),
            },
            "outbox": health["outbox"],
            "tunnels": health["tunnels"],
        }

    def recount(self) -> None:
        """Take in what was counted since the last look."""
        now_ms = self.miner.parts.time.mono_us() // 1_000
        if self._looks and now_ms - self._looks[-1].at_ms >= RECOUNT_MS:
            self.look(self._looks[-1].reading)

    def _own_problems(self) -> list[str]:
        chooser = self.miner.parts.deployment.chooser
        placement = f"the placement is not followed: {chooser.why}" if chooser.why else ""
        return [one for one in (placement, self.earnings.why, self.maintenance.why) if one]

    def _paired(self, health: dict[str, Any]) -> list[tuple[Instance, dict[str, Any]]]:
        said = {one["instance"]: one for one in health["instances"]}
        instances = self.miner.parts.fleet.instances.values()
        return [(one, said[one.name]) for one in instances if one.name in said]

    def _host(self, reading: Reading) -> dict[str, Any]:
        hardware = self.miner.hardware
        first = self._minute()[0].reading.host if len(self._looks) > 1 else HostReading()
        return {
            "model": hardware.host.model or hardware.model,
            "class": hardware.kind,
            "cores": hardware.cores,
            "memory_bytes": hardware.memory_bytes,
            "memory_used_bytes": reading.host.memory_used_bytes,
            "busy_ppm": busy_ppm(first, reading.host),
        }

    def _rates(self) -> dict[str, Any]:
        """Of the last minute. `cached_ppm`: the share of the prompt that came from a cache, null when
        nothing was asked.
        """
        if len(self._looks) < 2:
            return {
                "completion_tokens_per_s_milli": 0,
                "prompt_tokens_per_s_milli": 0,
                "requests_per_min": 0,
                "cached_ppm": None,
            }
        first, last = self._minute()
        took_ms = max(last.at_ms - first.at_ms, 1)
        prompt = last.totals.prompt_units - first.totals.prompt_units
        cached = last.totals.cached_units - first.totals.cached_units
        completion = last.totals.completion_units - first.totals.completion_units
        orders = sum(last.totals.orders.values()) - sum(first.totals.orders.values())
        return {
            "completion_tokens_per_s_milli": max(completion, 0) * 1_000_000 // took_ms,
            "prompt_tokens_per_s_milli": max(prompt, 0) * 1_000_000 // took_ms,
            "requests_per_min": max(orders, 0) * 60_000 // took_ms,
            "cached_ppm": cached * PPM // prompt if prompt > 0 else None,
        }

    def _minute(self) -> tuple[Look, Look]:
        """The oldest look of the last minute (the one before, if there is only one), and the newest."""
        last = self._looks[-1]
        found = [one for one in self._looks if one.at_ms >= last.at_ms - RATES_MS]
        return (found[0] if len(found) > 1 else self._looks[-2]), last

    def _earned(self, now_ms: int) -> dict[str, Any]:
        return {
            "now_nano_per_hour": self.earnings.rate_nano_per_hour(now_ms=now_ms),
            "day": sum_seen(self.earnings.sum(DAY_HOURS, now_ms=now_ms)),
            "week": sum_seen(self.earnings.sum(WEEK_HOURS, now_ms=now_ms)),
            "settled_epoch": self.earnings.settled,
        }


def power_mw(reading: Reading) -> int | None:
    """What all cards draw together, None where no driver says."""
    known = [one.power_mw for one in reading.gpus if one.power_mw is not None]
    return sum(known) if known else None


def gpus_seen(hardware: Hardware, reading: Reading) -> list[dict[str, Any]]:
    """Each card with what its driver says of it now."""
    readings = {one.uuid: one for one in reading.gpus}
    seen = []
    for gpu in hardware.gpus:
        now = readings.get(gpu.uuid, GpuReading(uuid=gpu.uuid))
        seen.append(
            {
                "uuid": gpu.uuid,
                "model": gpu.model,
                "memory_bytes": gpu.memory_bytes,
                "memory_used_bytes": now.memory_used_bytes,
                "busy_ppm": now.busy_ppm,
                "power_mw": now.power_mw,
                "power_max_mw": now.power_max_mw,
                "temperature_mc": now.temperature_mc,
            }
        )
    return seen


def instance_seen(one: Instance, health: dict[str, Any]) -> dict[str, Any]:
    """As `/health` says it, with what waits in its engine."""
    stats = one.stats
    return {
        **health,
        "waiting": 0 if stats is None else stats.waiting,
        "parallel_max": one.manifest.limits.parallel_max,
        "modality": one.manifest.modality.value,
    }


def sum_seen(found: Sum) -> dict[str, int]:
    """A span's earnings in nano-USD."""
    return {
        "orders": found.orders,
        "gross_nano": found.gross_nano,
        "fees_nano": found.fees_nano,
        "own_nano": found.own_nano,
        "payout_nano": found.payout_nano,
        "power_nano": found.power_nano,
        "rent_nano": found.rent_nano,
        "net_nano": found.net_nano,
    }
