"""The systemd unit: what it promises is there, and systemd itself reads it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from penstock.cli.main import main
from penstock.miner.config import Deadlines

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "penstock-miner.service"
SUBGROUP_SINCE = 254
EXPOSURE_MAX = 5.0
"""Of 10. What keeps it from less is written in the unit: graphics cards, and bubblewrap's own walls."""


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[A-Za-z]+", name):
            found.setdefault(name, []).append(value)
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here: apt install systemd")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_it_runs_as_a_user_of_its_own_that_the_other_file_makes() -> None:
    found = settings()
    (user,) = found["User"]
    lines = (FOLDER / "penstock.sysusers").read_text().splitlines()
    assert user == "penstock"
    assert any(line.split()[:2] == ["u", user] for line in lines)
    assert {tuple(line.split()) for line in lines if line.startswith("m ")} == {
        ("m", user, "video"),
        ("m", user, "render"),
    }
    assert found["CapabilityBoundingSet"] == [""]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["ProtectHome"] == ["yes"]


def test_it_writes_into_its_own_folder_only() -> None:
    found = settings()
    assert found["StateDirectory"] == ["penstock"]
    assert found["StateDirectoryMode"] == ["0700"]
    assert "--home /var/lib/penstock " in found["ExecStart"][0]
    assert "ReadWritePaths" not in found


def test_stopping_it_leaves_time_for_all_that_a_drain_may_take() -> None:
    found, deadlines = settings(), Deadlines()
    drain_ms = deadlines.drain_ms + 2 * deadlines.peer_ms + deadlines.ledger_ms
    assert int(found["TimeoutStopSec"][0]) * 1000 > drain_ms + deadlines.engine_stop_ms


def test_engines_outlive_a_crash_of_the_agent_and_no_engine_takes_it_along() -> None:
    found = settings()
    assert found["KillMode"] == ["process"]
    assert found["OOMPolicy"] == ["continue"]
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert {"memory", "cpu", "pids"} == set(found["Delegate"][0].split())


@pytest.mark.parametrize(
    "name", ["PrivateDevices", "DeviceAllow", "ProtectClock", "RestrictNamespaces", "ProtectProc"]
)
def test_nothing_hides_graphics_cards_or_keeps_bubblewrap_from_its_work(name: str) -> None:
    assert name not in settings()


def test_its_command_is_one_and_its_options_exist() -> None:
    words = settings()["ExecStart"][0].split()
    assert words[:3] == ["/opt/penstock/bin/penstock", "miner", "up"]
    context = click.Context(main)
    group = main.get_command(context, "miner")
    assert isinstance(group, click.Group)
    command = group.get_command(context, "up")
    assert command is not None
    known = {name for one in command.params for name in one.opts}
    assert {word for word in words if word.startswith("--")} <= known
    variables = set(re.findall(r"\$\{?(\w+)", " ".join(words)))
    told = {
        line.partition("=")[0]
        for line in (FOLDER / "penstock-miner.env").read_text().splitlines()
        if not line.startswith("#")
    }
    assert variables == told


def test_systemd_reads_it(tmp_path: Path) -> None:
    """With a program that is there in the place of the one that will be."""
    version = re.search(r"systemd (\d+)", analyze("--version").stdout)
    is_old = version is not None and int(version[1]) < SUBGROUP_SINCE
    lines = UNIT.read_text().replace("/opt/penstock/bin/penstock", sys.executable).splitlines()
    known = [one for one in lines if not (is_old and one.startswith("DelegateSubgroup="))]
    unit = tmp_path / UNIT.name
    unit.write_text("\n".join(known))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


def test_systemd_finds_it_well_closed() -> None:
    done = analyze("security", "--offline=yes", "--no-pager", str(UNIT))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd cannot look at a file: {done.stderr[:200]}")
    assert float(found[1]) <= EXPOSURE_MAX
