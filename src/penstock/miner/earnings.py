"""What this miner earned by its own receipts, hour by hour, and what its machine costs meanwhile.

The books are the ledger's; this is the miner's own view of them, kept over restarts, so that a person
sees earnings as they come. An hour's buckets hold what was charged (gross), by chute; the network's fee
split says what of it is the miner's. Power and rent are what the owner declared, power as the driver
measured it where it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from penstock.kit.metrics import Metrics
from penstock.kit.ports import Files
from penstock.spec.params import FeeSplit
from penstock.spec.pricing import split_charge

FILE = "earnings.json"
HOUR_MS = 3_600_000
HOURS_MAX = 31 * 24
CHUTES_MAX = 1_024
"""Of one hour; what is beyond counts under OTHER."""
OTHER = "other"
NANO_PER_USD = 1_000_000_000
JOULE_MJ = 1_000
KWH_MJ = 3_600_000 * JOULE_MJ
"""Millijoules in a kilowatt hour."""


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine costs its owner, in nano-USD; 0 for what is free or not known."""

    power_nano_per_kwh: int = 0
    rent_nano_per_hour: int = 0
    power_declared_mw: int = 0
    """What the machine draws while it runs, in milliwatts, where no driver says."""


class Hour(msgspec.Struct):
    """What one hour brought and took."""

    gross_nano: dict[str, int] = {}
    orders: dict[str, int] = {}
    energy_mj: int = 0
    up_ms: int = 0
    payout_nano: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """Earnings of a span of time. `own_nano` is the miner's part of `gross_nano`, `payout_nano` its part
    of the pools of the epochs that were settled in it.
    """

    hours: int
    orders: int
    gross_nano: int
    own_nano: int
    payout_nano: int
    power_nano: int
    rent_nano: int

    @property
    def net_nano(self) -> int:
        return self.own_nano + self.payout_nano - self.power_nano - self.rent_nano

    @property
    def fees_nano(self) -> int:
        """What went to the operator and the pool."""
        return self.gross_nano - self.own_nano


@dataclass(slots=True)
class Earnings:
    """Buckets by hour (Unix hours), oldest first; at most HOURS_MAX of them."""

    files: Files
    fees: FeeSplit
    costs: Costs
    hours: dict[int, Hour] = field(default_factory=dict)
    settled: int = -1
    """The last epoch whose payout is in here."""
    why: str = ""
    _charged: dict[str, int] = field(default_factory=dict)
    _served: dict[str, int] = field(default_factory=dict)
    _recent: list[tuple[int, int]] = field(default_factory=list)

    def open(self) -> None:
        """Read what former lives earned. A file that cannot be read is set aside by being ignored."""
        try:
            kept = msgspec.json.decode(self.files.read(FILE), type=_Kept)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.why = f"{FILE} cannot be read ({error}): earnings are counted anew"
            return
        self.hours = dict(sorted(kept.hours.items())[-HOURS_MAX:])
        self.settled = kept.settled

    def save(self) -> None:
        """Raises kit's DiskFull; what is in memory goes on."""
        self.files.write(FILE, msgspec.json.encode(_Kept(hours=self.hours, settled=self.settled)))

    def count(self, totals: "Totals", *, now_ms: int) -> None:
        """Book what the counters have grown by since the last look. They start from 0 in each life."""
        hour = self.hour(now_ms)
        grown = 0
        for chute, total in totals.charged_nano.items():
            more = total - self._charged.get(chute, 0)
            if more > 0:
                _add(hour.gross_nano, chute, more)
                grown += more
        for chute, total in totals.orders.items():
            more = total - self._served.get(chute, 0)
            if more > 0:
                _add(hour.orders, chute, more)
        self._charged, self._served = dict(totals.charged_nano), dict(totals.orders)
        own_nano = split_charge(grown, self.fees).miner_nano if grown else 0
        self._recent = [(at, n) for at, n in self._recent if at > now_ms - HOUR_MS]
        if own_nano:
            self._recent.append((now_ms, own_nano))

    def ran(self, *, took_ms: int, power_mw: int | None, now_ms: int) -> None:
        """The machine ran for so long at this power; None: nobody measured it."""
        hour = self.hour(now_ms)
        drawn = self.costs.power_declared_mw if power_mw is None else power_mw
        hour.up_ms += took_ms
        hour.energy_mj += drawn * took_ms // 1_000

    def paid(self, epoch: int, amount_nano: int, *, at_ms: int) -> None:
        """A settled epoch's payout; each epoch counts once, in their order."""
        if epoch > self.settled:
            self.settled = epoch
            self.hour(at_ms).payout_nano += amount_nano

    def hour(self, now_ms: int) -> Hour:
        """The bucket of this moment."""
        number = now_ms // HOUR_MS
        found = self.hours.get(number)
        if found is None:
            found = self.hours[number] = Hour()
            while len(self.hours) > HOURS_MAX:
                del self.hours[min(self.hours)]
        return found

    def rate_nano_per_hour(self, *, now_ms: int, span_ms: int = 600_000) -> int:
        """What the last minutes would bring in an hour, the miner's part of the charges alone."""
        recent = sum(n for at, n in self._recent if at > now_ms - span_ms)
        return recent * HOUR_MS // span_ms

    def sum(self, hours: int, *, now_ms: int) -> Sum:
        """The hour that runs and those before it, so many together."""
        last = now_ms // HOUR_MS
        found = [one for number, one in self.hours.items() if last - hours < number <= last]
        gross = sum(sum(one.gross_nano.values()) for one in found)
        energy_mj = sum(one.energy_mj for one in found)
        up_ms = sum(one.up_ms for one in found)
        return Sum(
            hours=hours,
            orders=sum(sum(one.orders.values()) for one in found),
            gross_nano=gross,
            own_nano=split_charge(gross, self.fees).miner_nano if gross else 0,
            payout_nano=sum(one.payout_nano for one in found),
            power_nano=energy_mj * self.costs.power_nano_per_kwh // KWH_MJ,
            rent_nano=up_ms * self.costs.rent_nano_per_hour // HOUR_MS,
        )

    def by_chute(self, hours: int, *, now_ms: int) -> dict[str, tuple[int, int]]:
        """Chute name -> (orders, gross), the most earning first."""
        last = now_ms // HOUR_MS
        found: dict[str, tuple[int, int]] = {}
        for number, one in self.hours.items():
            if last - hours < number <= last:
                for chute in one.gross_nano.keys() | one.orders.keys():
                    orders, gross = found.get(chute, (0, 0))
                    found[chute] = (
                        orders + one.orders.get(chute, 0),
                        gross + one.gross_nano.get(chute, 0),
                    )
        return dict(sorted(found.items(), key=lambda item: (-item[1][1], item[0])))


class _Kept(msgspec.Struct):
    hours: dict[int, Hour]
    settled: int = -1


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of this life, by chute name."""

    charged_nano: Mapping[str, int]
    orders: Mapping[str, int]
    prompt_units: int = 0
    completion_units: int = 0
    cached_units: int = 0


def read_totals(metrics: Metrics, chutes: frozenset[str]) -> Totals:
    """What the front has counted for these chutes."""

    def by_chute(name: str) -> dict[str, int]:
        return {one: int(metrics.value(name, chute_name=one)) for one in sorted(chutes)}

    outcomes = ("complete", "client_cancelled")
    orders = {
        one: sum(
            int(metrics.value("miner_orders_total", outcome=outcome, chute_name=one))
            for outcome in outcomes
        )
        for one in sorted(chutes)
    }
    return Totals(
        charged_nano=by_chute("miner_charge_nano_total"),
        orders=orders,
        prompt_units=sum(by_chute("miner_prompt_units_total").values()),
        completion_units=sum(by_chute("miner_completion_units_total").values()),
        cached_units=sum(by_chute("miner_cached_units_total").values()),
    )


def _add(table: dict[str, int], chute: str, n: int) -> None:
    key = chute if chute in table or len(table) < CHUTES_MAX else OTHER
    table[key] = table.get(key, 0) + n
