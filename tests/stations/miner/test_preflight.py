"""The self-test judges facts: what is fit, what is only a warning, and what to do about each."""

from dataclasses import replace

import pytest
from tests.stations.miner.world import HARDWARE

from penstock.kit.hardware import Gpu, Maker
from penstock.miner import preflight
from penstock.miner.preflight import GIB, Finding, Mark, is_fit

CARD = Gpu(model="NVIDIA H100 80GB HBM3", uuid="u", memory_bytes=80 * GIB, driver="570.1")
SANDBOX = (("read other files", True, "landlock"), ("own loopback", False, "off: install it"))


def disk(free_bytes: int, speed: int = 1 << 30) -> Finding:
    return preflight.judge_disk(free_bytes=free_bytes, write_bytes_per_s=speed, folder="/d")


@pytest.mark.parametrize(
    ("found", "mark", "code"),
    [
        (preflight.judge_hardware(HARDWARE), Mark.OK, ""),
        (preflight.judge_hardware(replace(HARDWARE, gpus=(CARD,))), Mark.OK, ""),
        (
            preflight.judge_hardware(replace(HARDWARE, gpus=(replace(CARD, driver=""),))),
            Mark.WARN,
            "driver_mute",
        ),
        (
            preflight.judge_hardware(
                replace(HARDWARE, gpus=(replace(CARD, driver="", maker=Maker.APPLE),))
            ),
            Mark.OK,
            "",
        ),
        (preflight.judge_hardware(replace(HARDWARE, cores=0)), Mark.WARN, "hardware_unreadable"),
        (disk(100 * GIB), Mark.OK, ""),
        (disk(5 * GIB), Mark.WARN, "disk_small"),
        (disk(GIB), Mark.FAIL, "disk_full"),
        (disk(100 * GIB, 1 << 20), Mark.WARN, "disk_slow"),
        (preflight.judge_memory(16 * GIB), Mark.OK, ""),
        (preflight.judge_memory(2 * GIB), Mark.WARN, "memory_small"),
        (preflight.judge_memory(GIB // 2), Mark.FAIL, "memory_short"),
        (preflight.judge_memory(0), Mark.WARN, "memory_unknown"),
        (preflight.judge_clock(0, skew_ms_max=2_000), Mark.OK, ""),
        (preflight.judge_clock(-2_000, skew_ms_max=2_000), Mark.OK, ""),
        (preflight.judge_clock(2_001, skew_ms_max=2_000), Mark.WARN, "clock_off"),
        (preflight.judge_bandwidth(bits_per_s=10**9, round_trip_ms=3), Mark.OK, ""),
        (preflight.judge_bandwidth(bits_per_s=10**6, round_trip_ms=3), Mark.WARN, "line_slow"),
        (preflight.judge_bandwidth(bits_per_s=10**9, round_trip_ms=900), Mark.WARN, "line_long"),
        (preflight.judge_port(host="h", port=0, why_not=""), Mark.OK, ""),
        (preflight.judge_port(host="h", port=80, why_not="in use"), Mark.FAIL, "port_taken"),
        (preflight.judge_engine(took_ms=900, why_not="", remedy=""), Mark.OK, ""),
        (preflight.judge_engine(took_ms=60_000, why_not="", remedy=""), Mark.WARN, "engine_slow"),
        (
            preflight.judge_engine(took_ms=0, why_not="it died", remedy="r"),
            Mark.FAIL,
            "engine_failed",
        ),
        (preflight.judge_sandbox(SANDBOX[:1]), Mark.OK, ""),
        (preflight.judge_sandbox(SANDBOX), Mark.WARN, "sandbox_partial"),
        (preflight.judge_market(why_not="", name="local"), Mark.OK, ""),
        (preflight.judge_market(why_not="refused", name=""), Mark.FAIL, "market_unreachable"),
        (preflight.skipped("clock", "no gateway"), Mark.SKIPPED, ""),
    ],
)
def test_each_finding_has_its_mark_and_each_fault_its_code_and_remedy(
    found: Finding, mark: Mark, code: str
) -> None:
    assert (found.mark, found.code) == (mark, code)
    assert bool(found.remedy) == bool(code)
    assert found.what
    assert is_fit([found]) == (mark is not Mark.FAIL)


@pytest.mark.parametrize(
    ("endpoint", "has_tunnels", "is_local", "mark"),
    [
        ("http://me:1", False, False, Mark.OK),
        ("", True, False, Mark.OK),
        ("", False, True, Mark.OK),
        ("", False, False, Mark.FAIL),
    ],
)
def test_a_miner_must_be_reachable_somehow(
    endpoint: str, has_tunnels: bool, is_local: bool, mark: Mark
) -> None:
    found = preflight.judge_reach(endpoint=endpoint, has_tunnels=has_tunnels, is_local=is_local)
    assert found.mark is mark
    assert ("--endpoint" in found.remedy) == (mark is Mark.FAIL)


def test_what_engines_could_do_is_named() -> None:
    found = preflight.judge_sandbox(SANDBOX)
    assert "own loopback" in found.what
    assert found.remedy == "install it"
