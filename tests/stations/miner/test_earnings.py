"""The miner's own account: counters become hours, hours become sums, and restarts lose nothing."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.metrics import Metrics
from penstock.kit.ports import DiskFull
from penstock.miner.earnings import (
    CHUTES_MAX,
    FILE,
    HOUR_MS,
    HOURS_MAX,
    OTHER,
    Costs,
    Earnings,
    Totals,
    read_totals,
)
from penstock.sim.disk import MemoryFiles
from penstock.spec.params import LOCAL
from penstock.spec.pricing import split_charge

NOW = 500_000 * HOUR_MS


def earnings(costs: Costs | None = None, files: MemoryFiles | None = None) -> Earnings:
    made = Earnings(
        files if files is not None else MemoryFiles(bytes_max=1 << 20),
        LOCAL.fees,
        costs if costs is not None else Costs(),
    )
    made.open()
    return made


def totals(**charged: int) -> Totals:
    return Totals(charged_nano=charged, orders=dict.fromkeys(charged, 1))


def test_what_counters_grew_by_is_booked_once() -> None:
    one = earnings()
    one.count(totals(chat=1_000), now_ms=NOW)
    one.count(totals(chat=1_000), now_ms=NOW)
    one.count(totals(chat=1_500, images=10), now_ms=NOW)
    found = one.sum(1, now_ms=NOW)
    assert found.gross_nano == 1_510
    assert found.own_nano == split_charge(1_510, LOCAL.fees).miner_nano
    assert found.own_nano + found.fees_nano == found.gross_nano
    assert one.by_chute(1, now_ms=NOW) == {"chat": (1, 1_500), "images": (1, 10)}


def test_a_new_life_counts_from_nothing_and_adds_to_what_was_kept() -> None:
    files = MemoryFiles(bytes_max=1 << 20)
    first = earnings(files=files)
    first.count(totals(chat=1_000), now_ms=NOW)
    first.paid(7, 30, at_ms=NOW)
    first.save()
    second = earnings(files=files)
    assert second.settled == 7
    second.count(totals(chat=400), now_ms=NOW + 1)
    found = second.sum(1, now_ms=NOW + 1)
    assert (found.gross_nano, found.payout_nano) == (1_400, 30)


def test_an_epoch_is_paid_once() -> None:
    one = earnings()
    one.paid(3, 100, at_ms=NOW)
    one.paid(3, 100, at_ms=NOW)
    one.paid(2, 100, at_ms=NOW)
    assert one.sum(1, now_ms=NOW).payout_nano == 100


def test_sums_are_of_the_hours_asked_for() -> None:
    one = earnings()
    one.count(totals(chat=100), now_ms=NOW - 30 * HOUR_MS)
    one.count(totals(chat=300), now_ms=NOW)
    assert one.sum(24, now_ms=NOW).gross_nano == 200
    assert one.sum(168, now_ms=NOW).gross_nano == 300


def test_power_is_what_was_measured_or_else_declared_and_rent_is_by_the_hour() -> None:
    costs = Costs(
        power_nano_per_kwh=300_000_000,
        rent_nano_per_hour=1_000_000_000,
        power_declared_mw=100_000,
    )
    one = earnings(costs)
    one.ran(took_ms=HOUR_MS, power_mw=None, now_ms=NOW)
    assert one.sum(1, now_ms=NOW).power_nano == 30_000_000
    one.ran(took_ms=HOUR_MS, power_mw=300_000, now_ms=NOW)
    found = one.sum(1, now_ms=NOW)
    assert found.power_nano == 120_000_000
    assert found.rent_nano == 2_000_000_000
    assert found.net_nano == -2_120_000_000


def test_the_present_rate_is_of_the_last_minutes() -> None:
    one = earnings()
    one.count(totals(chat=1_000_000), now_ms=NOW)
    own = split_charge(1_000_000, LOCAL.fees).miner_nano
    assert one.rate_nano_per_hour(now_ms=NOW + 1) == own * 6
    assert one.rate_nano_per_hour(now_ms=NOW + 600_001) == 0


def test_hours_and_chutes_are_bounded() -> None:
    one = earnings()
    for number in range(HOURS_MAX + 50):
        one.hour(NOW + number * HOUR_MS)
    assert len(one.hours) == HOURS_MAX
    many = {f"chute-{number}": 1 for number in range(CHUTES_MAX + 100)}
    later = NOW + (HOURS_MAX + 60) * HOUR_MS
    one.count(Totals(charged_nano=many, orders={}), now_ms=later)
    hour = one.hour(later)
    assert len(hour.gross_nano) == CHUTES_MAX + 1
    assert hour.gross_nano[OTHER] == 100


def test_a_file_that_cannot_be_read_is_said_and_counted_anew() -> None:
    files = MemoryFiles(bytes_max=1 << 20)
    files.write(FILE, b"{broken")
    one = earnings(files=files)
    assert "counted anew" in one.why
    assert one.sum(24, now_ms=NOW).gross_nano == 0


def test_a_full_disk_is_told_to_whoever_saves() -> None:
    one = earnings(files=MemoryFiles(bytes_max=1))
    one.count(totals(chat=5), now_ms=NOW)
    try:
        one.save()
    except DiskFull:
        assert one.sum(1, now_ms=NOW).gross_nano == 5
    else:
        raise AssertionError("it had no room")


def test_totals_are_what_the_front_counted() -> None:
    metrics = Metrics()
    metrics.count("miner_charge_nano_total", 70, chute_name="a")
    metrics.count("miner_orders_total", outcome="complete", chute_name="a")
    metrics.count("miner_orders_total", outcome="refused", chute_name="a")
    metrics.count("miner_prompt_units_total", 9, chute_name="a")
    metrics.count("miner_cached_units_total", 4, chute_name="a")
    metrics.count("miner_completion_units_total", 3, chute_name="a")
    found = read_totals(metrics, frozenset({"a", "b"}))
    assert found.charged_nano == {"a": 70, "b": 0}
    assert found.orders == {"a": 1, "b": 0}
    assert (found.prompt_units, found.cached_units, found.completion_units) == (9, 4, 3)


@given(st.lists(st.integers(min_value=0, max_value=10**9), max_size=30))
def test_however_it_grows_nothing_is_lost_or_doubled(steps: list[int]) -> None:
    one, total = earnings(), 0
    for number, step in enumerate(steps):
        total += step
        one.count(totals(chat=total), now_ms=NOW + number)
    assert one.sum(1, now_ms=NOW).gross_nano == total
