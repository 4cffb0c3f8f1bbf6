"""A task that tries to get out of the sandbox, for real: by Landlock and seccomp, and by bubblewrap."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_grounds import DEADLINE_MS, bubblewrap_path, process_ground

from penstock.adapters.runtimes import landlock, seccomp
from penstock.adapters.runtimes.sandbox import Bounds, Ground, look, protections
from penstock.kit.runtime import ORPHAN_MS, Needs, Reach, TaskFailed

SCRIPT = Path(__file__).parents[2] / "runtime_escapes.py"
ALLOWED = {"allowed_things", "loopback_of_its_own"}
pytestmark = pytest.mark.skipif(
    landlock.abi() < landlock.SCOPE_ABI or not seccomp.is_known_machine(),
    reason="needs Linux 6.12 with Landlock and seccomp",
)


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What a miner's machine has and an engine must not touch."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_text("secret")
    for name in ("model", "writable"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "weights").write_text("numbers")
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        # Unix paths are short; the folder of the test may not be.
        folder = stack.enter_context(_short_folder())
        unix.bind(f"{folder}/agent.sock")
        name = f"penstock-test-{os.getpid()}"
        abstract.bind("\0" + name)
        for one in (unix, abstract):
            one.listen()
        yield {
            "secret": str(home / ".ssh" / "id"),
            "home": str(home),
            "readable": str(tmp_path / "model" / "weights"),
            "writable": str(tmp_path / "writable"),
            "port": tcp.getsockname()[1],
            "udp_port": udp.getsockname()[1],
            "unix": f"{folder}/agent.sock",
            "abstract": name,
            "pid": os.getpid(),
            "too_many_bytes": Bounds().file_bytes_max + 1,
            "any_port": False,
        }


def _short_folder() -> Any:
    import tempfile

    return tempfile.TemporaryDirectory(prefix="rt")


async def escapes(
    tmp_path: Path, targets: dict[str, Any], *, path: str, reach: Reach
) -> dict[str, str]:
    """What a task with that reach could do; its folder lies beside the home it must not see."""
    async with process_ground(tmp_path, ORPHAN_MS, path=path, reach=reach) as ground:
        runtime = await ground.agent()
        task = replace(
            ground.task("serve"),
            argv=(sys.executable, "-I", "-S", str(SCRIPT), "{port}"),
            readable=(SCRIPT, Path(targets["readable"])),
            writable=(Path(targets["writable"]),),
            stdin=json.dumps(targets).encode(),
        )
        await runtime.launch(task, deadline_ms=DEADLINE_MS)
        await runtime.wait(task.name)
        log = await runtime.logs(task.name, bytes_max=1 << 16)
    lines = [line for line in log.splitlines() if line.startswith("escapes: ")]
    assert lines, log
    found: dict[str, str] = json.loads(lines[0].removeprefix("escapes: "))
    return found


def successes(found: dict[str, str]) -> set[str]:
    return {name for name, how in found.items() if how == "done"}


def test_without_a_sandbox_the_attempts_work(tmp_path: Path, targets: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "0"],
        input=json.dumps({**targets, "any_port": True}).encode(),
        stdout=subprocess.PIPE,
        env={"TMPDIR": str(tmp_path)},
        check=True,
    )
    found = json.loads(done.stdout.decode().partition("escapes: ")[2])
    # What depends on the rights of who runs the tests, or on the machine's own settings.
    depends = {"read_shadow", "trace_agent", "new_user_namespace", "io_uring", "dump_core"}
    depends |= {"keep_capabilities", "connect_internet", "fill_disk", "fast_open_agent"}
    assert set(found) - successes(found) <= depends
    assert found["connect_agent"] == "done"


async def test_landlock_and_seccomp_hold_alone(tmp_path: Path, targets: dict[str, Any]) -> None:
    found = await escapes(tmp_path, targets, path="", reach=Reach.NONE)
    assert successes(found) == {"allowed_things"}, found
    assert not (Path(targets["home"]) / "planted").exists()


async def test_bubblewrap_holds_with_them(tmp_path: Path, targets: dict[str, Any]) -> None:
    found = await escapes(tmp_path, targets, path=await bubblewrap_path(), reach=Reach.NONE)
    assert successes(found) == {"allowed_things"}, found


async def test_a_loopback_of_its_own_is_its_own(tmp_path: Path, targets: dict[str, Any]) -> None:
    """A datagram may be sent there: it goes nowhere."""
    found = await escapes(tmp_path, targets, path=await bubblewrap_path(), reach=Reach.OWN)
    assert successes(found) == {*ALLOWED, "send_datagram"}, found


async def test_a_task_that_may_reach_out_gets_nothing_else(
    tmp_path: Path, targets: dict[str, Any]
) -> None:
    found = await escapes(tmp_path, targets, path="", reach=Reach.HOST)
    reaching = {"connect_agent", "send_datagram", "connect_internet", "fast_open_agent"}
    assert successes(found) - reaching == ALLOWED, found
    assert found["connect_agent"] == "done"


async def test_a_loopback_of_its_own_needs_bubblewrap(tmp_path: Path) -> None:
    async with process_ground(tmp_path, ORPHAN_MS, path="", reach=Reach.OWN) as ground:
        runtime = await ground.agent()
        with pytest.raises(TaskFailed, match="bubblewrap"):
            await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)


async def test_too_much_memory_is_refused_to_the_task_alone(tmp_path: Path) -> None:
    async with process_ground(tmp_path, ORPHAN_MS) as ground:
        runtime = await ground.agent()
        greedy = "import time; block = bytearray(1 << 30); print('got it')"
        task = ground.task(
            "serve",
            argv=(sys.executable, "-I", "-S", "-c", greedy, "{port}"),
            needs=Needs(memory_bytes=256 << 20),
        )
        await runtime.launch(task, deadline_ms=DEADLINE_MS)
        ending = await runtime.wait(task.name)
        assert ending.status == 1
        assert "MemoryError" in ending.log_tail


async def test_what_is_on_is_told_and_what_is_missing_too() -> None:
    everything = {one.name: one for one in protections(await look(""))}
    assert everything["read and write other files"].how == "landlock"
    assert everything["call other machines and ports"].how == "landlock, seccomp"
    bare = protections(Ground(landlock_abi=0, has_seccomp=False, bubblewrap="", cgroup=None))
    off = [one for one in bare if not one.is_on]
    assert len(off) >= len(bare) - 1
    assert all("bubblewrap" in one.how for one in off)


def test_the_filter_is_built_for_both_machines() -> None:
    for machine in seccomp.ARCHES:
        for network in ("none", "own", "host"):
            steps = seccomp.filter_steps(machine, network=network, unix_sockets=True)
            assert len(steps) < 4096
            for index, (code, _, if_true, if_false) in enumerate(steps):
                if code & 7 == 5:  # a jump lands inside the program
                    assert index + 1 + max(if_true, if_false) < len(steps)
            assert steps[-1] == (seccomp.RETURN, seccomp.RET_ALLOW, 0, 0)


def test_this_machine_is_one_of_them() -> None:
    assert seccomp.is_known_machine() == (platform.machine() in seccomp.ARCHES)
