"""Control groups: the bounds as files (a folder plays the kernel), and entering and killing for real."""

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.adapters.runtimes import cgroup


def kernel(folder: Path, controllers: str) -> Path:
    """A delegated group with an agent in its subgroup, as systemd makes it."""
    group = folder / "system.slice" / "penstock.service"
    (group / "agent").mkdir(parents=True)
    (group / "cgroup.controllers").write_text(controllers)
    (group / "cgroup.subtree_control").write_text("memory\n")
    own = folder / "own"
    own.write_text("1:name=systemd:/x\n0::/system.slice/penstock.service/agent\n")
    return group


def test_a_delegated_group_is_found(tmp_path: Path) -> None:
    group = kernel(tmp_path, "cpuset cpu io memory pids")
    assert cgroup.delegated(tmp_path, tmp_path / "own") == group


@pytest.mark.parametrize("controllers", ["", "cpu memory"])
def test_a_group_without_the_controllers_is_none(tmp_path: Path, controllers: str) -> None:
    kernel(tmp_path, controllers)
    assert cgroup.delegated(tmp_path, tmp_path / "own") is None


def test_a_group_that_nobody_gave_us_is_none(tmp_path: Path) -> None:
    kernel(tmp_path, "cpu memory pids")
    (tmp_path / "own").write_text("0::/system.slice/penstock.service\n")
    assert cgroup.delegated(tmp_path, tmp_path / "own") is None
    assert cgroup.delegated(tmp_path, tmp_path / "nothing") is None


def test_the_bounds_are_written(tmp_path: Path) -> None:
    group = kernel(tmp_path, "cpu memory pids") / "penstock-engine-1"
    cgroup.make(group, memory_bytes=1 << 30, cpu_milli=1500, processes_max=64)
    assert (group.parent / "cgroup.subtree_control").read_text() == "+cpu +pids"
    assert (group / "memory.max").read_text() == str(1 << 30)
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "pids.max").read_text() == "64"
    assert (group / "cpu.max").read_text() == "150000 100000"


def test_no_bound_is_written_for_none(tmp_path: Path) -> None:
    group = kernel(tmp_path, "cpu memory pids") / "penstock-engine-1"
    cgroup.make(group, memory_bytes=0, cpu_milli=0, processes_max=64)
    assert not (group / "memory.max").exists()
    assert not (group / "cpu.max").exists()


def test_no_group_is_no_work() -> None:
    with cgroup.inside(""):
        cgroup.kill("")
        cgroup.remove("")


def test_what_is_started_inside_is_killed_with_the_group() -> None:
    """On a real one: only root may make it, and only where version 2 is mounted."""
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    root = next((one for one in roots if (one / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("no control groups of version 2 here")
    group = root / "penstock-test"
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        pytest.skip("control groups need root here")
    before = Path("/proc/self/cgroup").read_text()
    with cgroup.inside(str(group)):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        assert Path("/proc/self/cgroup").read_text() == before
        assert str(sleeper.pid) in (group / "cgroup.procs").read_text().split()
        cgroup.kill(str(group))
        assert sleeper.wait(timeout=30) == -9
    finally:
        sleeper.kill()
        sleeper.wait()
        cgroup.remove(str(group))
    assert not group.exists()
