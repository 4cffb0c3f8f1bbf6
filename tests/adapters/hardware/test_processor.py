"""The processor and its limits: recorded files of other machines, and this machine for real.

The files of control groups are as the kernel's page on cgroup-v2 and its page on the older version
spell them; the flags are from this project's own machines.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.hardware.cgroups import Quota, read_quota
from penstock.adapters.hardware.machine import this_machine
from penstock.adapters.hardware.processor import read_host, read_host_load
from penstock.adapters.hardware.reading import (
    Reader,
    number_or_none,
    read_text,
    run_program,
    text_or,
)
from penstock.kit.hardware import HostReading, busy_ppm

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's files")

CPU = "".join(
    f"processor\t: {number}\nmodel name\t: Test CPU 9000\nflags\t\t: fpu avx2 fma avx512f amx_tile sse\n\n"
    for number in range(8)
)
MEMORY = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    6000000 kB\n"
STAT = "cpu  100 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4\nintr 5\n"
FILES = {"/proc/cpuinfo": CPU, "/proc/meminfo": MEMORY, "/proc/stat": STAT}


def reader(files: dict[str, str]) -> Reader:
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return read


def test_a_machine_without_limits_is_all_ours() -> None:
    host = read_host(reader(FILES))
    assert (host.model, host.cores_milli, host.host_cores) == ("Test CPU 9000", 8_000, 8)
    assert host.memory_bytes == host.host_memory_bytes == 16_000_000 * 1024
    assert host.flags == ("avx2", "fma", "avx512f", "amx_tile")


def test_an_arm_machine_says_its_features_under_another_name() -> None:
    files = {"/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"}
    assert read_host(reader(files)).flags == ("asimd", "asimddp", "i8mm", "bf16")


def test_a_container_of_today_counts_by_its_quota() -> None:
    files = {
        **FILES,
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/sys/fs/cgroup/memory.max": "4294967296\n",
    }
    host = read_host(reader(files))
    assert (host.cores_milli, host.memory_bytes) == (1_500, 4 << 30)
    assert (host.host_cores, host.host_memory_bytes) == (8, 16_000_000 * 1024)


def test_the_tightest_of_the_groups_above_us_counts() -> None:
    slices = "/sys/fs/cgroup/kubepods.slice/pod1.slice"
    files = {
        "/proc/self/cgroup": "0::/kubepods.slice/pod1.slice/c.scope\n",
        f"{slices}/c.scope/cpu.max": "max 100000",
        f"{slices}/c.scope/memory.max": "8589934592",
        f"{slices}/cpu.max": "200000 100000",
        f"{slices}/memory.max": "max",
        "/sys/fs/cgroup/kubepods.slice/cpu.max": "700000 100000",
        "/sys/fs/cgroup/kubepods.slice/memory.max": "6442450944",
    }
    assert read_quota(reader(files)) == Quota(2_000, 6 << 30)


def test_an_older_container_counts_too() -> None:
    files = {
        "/proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648",
        "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert read_quota(reader(files)) == Quota(500, 2 << 30)


def test_no_group_no_quota() -> None:
    assert read_quota(reader({})) == Quota()
    assert read_quota(reader({"/proc/self/cgroup": "0::/\n"})) == Quota()


@given(
    groups=st.text(max_size=200),
    limit=st.text(max_size=20),
    quota=st.from_regex(r"-?\d{1,12} -?\d{1,12}", fullmatch=True) | st.text(max_size=20),
)
def test_no_text_of_the_kernel_breaks_the_reader(groups: str, limit: str, quota: str) -> None:
    files = {
        "/proc/self/cgroup": f"0::/\n{groups}",
        "/sys/fs/cgroup/cpu.max": quota,
        "/sys/fs/cgroup/memory.max": limit,
    }
    found = read_quota(reader(files))
    assert found.cores_milli is None or found.cores_milli >= 1
    assert found.memory_bytes is None or found.memory_bytes >= 1


def test_what_the_scheduler_allows_counts_and_a_tiny_quota_is_still_some() -> None:
    assert read_host(reader(FILES), usable_cores=3).cores_milli == 3_000
    files = {
        **FILES,
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/cpu.max": "1 1000000",
    }
    assert read_host(reader(files), usable_cores=3).cores_milli == 1


def test_a_system_without_these_files_has_empty_facts() -> None:
    host = read_host(reader({}))
    assert (host.model, host.cores_milli, host.memory_bytes, host.flags) == ("", 0, 0, ())
    assert read_host_load(reader({})) == HostReading()


def test_load_is_the_share_of_ticks_that_were_not_idle() -> None:
    before = read_host_load(reader(FILES))
    assert (before.busy_ticks, before.total_ticks) == (171, 621)
    assert before.memory_used_bytes == 10_000_000 * 1024
    after = HostReading(busy_ticks=171 + 25, total_ticks=621 + 100)
    assert busy_ppm(before, after) == 250_000
    assert busy_ppm(after, after) == 0
    assert busy_ppm(after, before) == 0


def test_numbers_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("42\n")
    assert number_or_none(read_text, str(tmp_path / "n")) == 42
    for text, wanted in (("-1", -1), ("max", None), ("", None), ("\u0664\u0662", None)):
        (tmp_path / "n").write_text(text)
        assert number_or_none(read_text, str(tmp_path / "n")) == wanted
    assert number_or_none(read_text, str(tmp_path / "none")) is None
    assert text_or(read_text, str(tmp_path), "x") == "x"


def test_a_program_that_is_missing_or_fails_says_nothing(tmp_path: Path) -> None:
    assert run_program(("penstock-no-such-program",)) == ""
    assert run_program(("echo", "hello")) == "hello\n"
    script = tmp_path / "denied"
    script.write_text("#!/nowhere\n")
    script.chmod(0o755)
    assert run_program((str(script),)) == ""


@LINUX
def test_this_machine_for_real() -> None:
    machine = this_machine()
    host, cards = machine.facts()
    assert 0 < host.cores_milli <= host.host_cores * 1000
    assert host.cores_milli <= len(os.sched_getaffinity(0)) * 1000
    assert 0 < host.memory_bytes <= host.host_memory_bytes
    assert all(card.memory_bytes > 0 for card in cards)
    before = machine.reading()
    assert sum(range(300_000)) > 0
    after = machine.reading()
    assert after.host.total_ticks >= before.host.total_ticks > 0
    assert 0 < after.host.memory_used_bytes < host.host_memory_bytes
    assert 0 <= busy_ppm(before.host, after.host) <= 1_000_000


@LINUX
def test_another_core_set_is_another_machine_to_us() -> None:
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    try:
        os.sched_setaffinity(0, one)
        host, _ = this_machine().facts()
    finally:
        os.sched_setaffinity(0, allowed)
    assert host.cores_milli <= 1_000
