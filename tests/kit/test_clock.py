"""Clocks."""

from penstock.kit.clock import OffsetClock, SystemClock
from penstock.sim.loop import EPOCH_MS, VirtualClock, VirtualLoop


def test_the_systems_clock_goes_forward() -> None:
    clock = SystemClock()
    first, wall = clock.mono_us(), clock.now_ms()
    assert clock.mono_us() >= first
    assert wall > EPOCH_MS - 10 * 365 * 86_400_000


def test_an_offset_moves_the_wall_and_not_the_spans() -> None:
    loop = VirtualLoop()
    inner = VirtualClock(loop)
    clock = OffsetClock(inner, 5_000)
    assert clock.now_ms() == inner.now_ms() + 5_000
    clock.offset_ms = -1
    assert clock.now_ms() == inner.now_ms() - 1
    assert clock.mono_us() == inner.mono_us()
    loop.close()
