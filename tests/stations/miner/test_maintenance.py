"""A planned absence: what may be planned, how it is kept, and what it does to offers and instances."""

import asyncio

import pytest
from tests.stations.miner.world import World, playing

from penstock.kit.ports import DiskFull
from penstock.miner.maintenance import (
    AHEAD_MS_MAX,
    FILE,
    LENGTH_MS_MAX,
    Maintenance,
    MaintenanceRefused,
    Window,
    offer_end_ms,
)
from penstock.sim.disk import MemoryFiles
from penstock.spec.params import LOCAL

NOW = 1_000_000
HOUR = 3_600_000


def test_a_plan_is_kept_over_restarts_and_can_be_forgotten() -> None:
    files = MemoryFiles(bytes_max=10_000)
    Maintenance(files).plan(Window(NOW + HOUR, NOW + 2 * HOUR), now_ms=NOW)
    back = Maintenance(files)
    back.open()
    assert back.window == Window(NOW + HOUR, NOW + 2 * HOUR)
    back.plan(None, now_ms=NOW)
    again = Maintenance(files)
    again.open()
    assert again.window is None


def test_it_is_on_from_its_beginning_up_to_its_end() -> None:
    one = Maintenance(window=Window(NOW, NOW + 10))
    assert [one.is_on(at) for at in (NOW - 1, NOW, NOW + 9, NOW + 10)] == [
        False,
        True,
        True,
        False,
    ]
    assert one.next_ms(NOW - 1) == NOW
    assert one.next_ms(NOW) is None
    assert Maintenance().next_ms(NOW) is None


@pytest.mark.parametrize(
    "window",
    [
        Window(NOW, NOW),
        Window(NOW, NOW - HOUR),
        Window(NOW - 2 * HOUR, NOW - HOUR),
        Window(NOW, NOW + LENGTH_MS_MAX + 1),
        Window(NOW + AHEAD_MS_MAX + 1, NOW + AHEAD_MS_MAX + HOUR),
    ],
)
def test_a_window_that_makes_no_sense_changes_nothing(window: Window) -> None:
    files = MemoryFiles(bytes_max=10_000)
    one = Maintenance(files)
    one.plan(Window(NOW, NOW + HOUR), now_ms=NOW)
    with pytest.raises(MaintenanceRefused):
        one.plan(window, now_ms=NOW)
    assert one.window == Window(NOW, NOW + HOUR)


def test_a_full_disk_changes_nothing() -> None:
    files = MemoryFiles(bytes_max=0)
    one = Maintenance(files)
    with pytest.raises(DiskFull):
        one.plan(Window(NOW, NOW + HOUR), now_ms=NOW)
    assert one.window is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"from_ms":"x","until_ms":1}', b"\xff"])
def test_a_file_that_cannot_be_read_is_no_window_and_is_said(data: bytes) -> None:
    files = MemoryFiles(bytes_max=10_000)
    files.write(FILE, data)
    one = Maintenance(files)
    one.open()
    assert one.window is None
    assert "plan the maintenance again" in one.why
    one.plan(None, now_ms=NOW)
    assert one.why == ""


def test_an_offer_ends_where_an_absence_begins_but_never_before_it_can_be_withdrawn() -> None:
    def end(rest_from_ms: int | None) -> int:
        return offer_end_ms(now_ms=NOW, ttl_ms=20_000, beat_ms=5_000, rest_from_ms=rest_from_ms)

    assert end(None) == NOW + 20_000
    assert end(NOW + 60_000) == NOW + 20_000
    assert end(NOW + 15_000) == NOW + 15_000
    assert end(NOW + 1_000) == NOW + 10_000


def test_a_miner_in_maintenance_withdraws_and_comes_back_by_itself() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        maintenance = world.miner.parts.deployment.maintenance
        now_ms = world.market.now_ms
        window = Window(now_ms + 10_000, now_ms + 40_000)
        maintenance.plan(window, now_ms=now_ms)
        await asyncio.sleep(8)
        last = world.market.offers[-1]
        assert last.valid_until_ms <= max(window.from_ms, last.issued_ms + 2 * LOCAL.beat_ms)
        assert last.valid_until_ms < last.issued_ms + LOCAL.offer_ttl_ms
        await world.until(lambda: world.market.withdrawn)
        assert world.market.now_ms < window.from_ms + 3 * LOCAL.beat_ms
        assert (await world.health())["status"] == "idle"
        assert (await world.health())["problems"] == []
        offered = len(world.market.offers)
        await asyncio.sleep(20)
        assert len(world.market.offers) == offered
        await world.until(lambda: len(world.market.offers) > offered)
        assert world.market.offers[-1].issued_ms >= window.until_ms

    playing(scenario)
