"""The process runtime where it is hurt: killed agents and holders, broken state, greedy tasks."""

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.runtime_grounds import (
    DEADLINE_MS,
    SHORT_ORPHAN_MS,
    ProcessGround,
    alive,
    ask,
    gone,
    make_task,
    process_ground,
    script,
)

from penstock.adapters.runtimes import offspring
from penstock.adapters.runtimes.errors import HomeTaken
from penstock.adapters.runtimes.task_folder import TaskFolder, remove_tree
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import ORPHAN_MS, TaskFailed

AGENT = Path(__file__).with_name("agent.py")
ROOT = Path(__file__).parents[3]
CLOCKS = {"clock": SystemClock(), "entropy": os.urandom}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="holders are Linux's")


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[ProcessGround]:
    async with process_ground(tmp_path, ORPHAN_MS) as made:
        yield made


def folder_of(ground: ProcessGround) -> TaskFolder:
    return TaskFolder(ground.home / "tasks" / "engine-1")


@pytest.mark.parametrize("mode", ["serve", "announce"])
async def test_tasks_go_on_when_the_agent_is_killed(ground: ProcessGround, mode: str) -> None:
    agent = subprocess.Popen(
        [sys.executable, AGENT, ground.home, mode],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
    )
    with agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "opened\n"
        address = agent.stdout.readline().strip()
        assert (await ask(address))["stdin"] == "settings"
        with pytest.raises(HomeTaken, match="--home"):
            await ground.agent()
        agent.kill()
    assert (await ask(address))["stdin"] == "settings"
    runtime = await ground.agent()
    taken = await runtime.launch(make_task(mode), deadline_ms=DEADLINE_MS)
    assert taken.address == address
    assert await runtime.list() == (taken,)


async def test_an_agent_killed_while_a_task_loads_leaves_it_to_the_next(
    ground: ProcessGround,
) -> None:
    agent = subprocess.Popen(
        [sys.executable, AGENT, ground.home, "mute"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
    )
    folder = folder_of(ground)
    with agent:
        while not (folder.is_held() and "mode mute" in folder.tail("log", bytes_max=100)):
            await asyncio.sleep(0.02)
        agent.kill()
    runtime = await ground.agent()
    assert [running.address for running in await runtime.list()] == [""]
    with pytest.raises(TaskFailed, match="no address after 300 ms"):
        await runtime.launch(make_task("mute"), deadline_ms=300)
    assert await runtime.list() == ()


async def test_what_a_killed_holder_leaves_behind_is_ended(ground: ProcessGround) -> None:
    """The engine itself dies with its holder; a process that it detached is found by its mark."""
    runtime = await ground.agent()
    detached = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(3600)\n"
        "time.sleep(3600)\n"
    )
    await runtime.launch(script(detached), deadline_ms=DEADLINE_MS)
    folder = folder_of(ground)
    marker = folder.marker
    while len(alive(marker)) < 2:
        await asyncio.sleep(0.02)
    os.kill(folder.holder_pid, signal.SIGKILL)
    ending = await runtime.wait("engine-1")
    assert ending.status is None
    assert "holder was killed" in ending.reason
    await gone(marker)
    assert await runtime.list() == ()


async def test_nothing_survives_a_stop_by_leaving_its_session(ground: ProcessGround) -> None:
    runtime = await ground.agent()
    daemon = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork():\n"
        "            os._exit(0)\n"
        "        os.environ.clear()\n"
        "        break\n"
        "print('ready', flush=True)\n"
        "time.sleep(3600)\n"
    )
    await runtime.launch(script(daemon, stop_ms=200), deadline_ms=DEADLINE_MS)
    holder = folder_of(ground).holder_pid
    while (await runtime.logs("engine-1", bytes_max=4096)).count("ready") < 4:
        await asyncio.sleep(0.02)
    below = offspring.below(holder)
    assert len(below) >= 4
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


async def test_what_a_dead_engine_started_ends_with_it(ground: ProcessGround) -> None:
    runtime = await ground.agent()
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(3600)\nos._exit(7)\n"
    await runtime.launch(script(code), deadline_ms=DEADLINE_MS)
    marker = folder_of(ground).marker
    assert (await runtime.wait("engine-1")).status == 7
    assert alive(marker) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"content": 5}', b"\xff" * 100_000])
async def test_broken_state_is_another_task_and_is_replaced(
    ground: ProcessGround, content: bytes
) -> None:
    runtime = await ground.agent()
    first = await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    (folder_of(ground).path / "task.json").write_bytes(content)
    assert [running.content for running in await runtime.list()] == [""]
    second = await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    assert second.content == first.content
    assert second.address != first.address or second.started_ms > first.started_ms
    assert len(await runtime.list()) == 1


async def test_a_broken_ending_is_an_unknown_one(ground: ProcessGround) -> None:
    runtime = await ground.agent()
    await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    (folder_of(ground).path / "exit.json").write_text('{"status": "x"')
    assert (await runtime.wait("engine-1")).status is None


async def test_a_process_number_in_a_file_proves_nothing(ground: ProcessGround) -> None:
    """State of a dead holder that names a living process: ours. It is neither listed nor ended."""
    runtime = await ground.agent()
    await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    folder = folder_of(ground)
    state = json.loads((folder.path / "task.json").read_text())
    await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        (folder.path / "task.json").write_text(json.dumps({**state, "holder_pid": bystander.pid}))
        (folder.path / "exit.json").unlink()
        assert await runtime.list() == ()
        await runtime.stop("engine-1", deadline_ms=DEADLINE_MS)
        await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_holder_that_hangs_is_ended(ground: ProcessGround) -> None:
    runtime = await ground.agent()
    await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    folder = folder_of(ground)
    holder = folder.holder_pid
    os.kill(holder, signal.SIGSTOP)
    state = json.loads((folder.path / "task.json").read_text())
    # A number that is not the holder's is left alone, whatever the file says.
    assert not offspring.has_open(os.getpid(), folder.path / "lock")
    assert offspring.has_open(holder, folder.path / "lock")
    await runtime.stop("engine-1", deadline_ms=100)
    assert await runtime.list() == ()
    await gone(state["marker"])


async def test_beats_keep_a_task_whatever_the_clock_says(tmp_path: Path) -> None:
    """The beat file jumps a year back and forth; only that it changes counts."""
    async with process_ground(tmp_path, SHORT_ORPHAN_MS) as ground:
        runtime = await ground.agent()
        await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
        end_s = time.monotonic() + 3 * SHORT_ORPHAN_MS / 1000 + 2
        year_s = 365 * 24 * 3600
        jump_s = year_s
        while time.monotonic() < end_s:
            os.utime(ground.home / "beat", (time.time() + jump_s, time.time() + jump_s))
            jump_s = -jump_s
            await asyncio.sleep(0.1)
        assert len(await runtime.list()) == 1
        (ground.home / "beat").unlink()
        assert "no agent" in (await runtime.wait("engine-1")).reason
        await runtime.beat()
        assert (ground.home / "beat").exists()


async def test_a_full_disk_refuses_a_launch_and_says_so(
    ground: ProcessGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await ground.agent()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(TaskFolder, "write", full)  # no disk of ours can be filled without harm
        with pytest.raises(TaskFailed, match="takes no more") as failed:
            await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)
    assert "Free some space" in failed.value.remedy
    assert await runtime.list() == ()
    await runtime.launch(ground.task("serve"), deadline_ms=DEADLINE_MS)


async def test_a_holder_whose_folder_takes_nothing_ends_its_task(ground: ProcessGround) -> None:
    """The name of the file it must write is a folder, which fails as a full disk does."""
    runtime = await ground.agent()
    folder = folder_of(ground)
    line = '{"address": "http://127.0.0.1:1"}'
    code = f"import time; time.sleep(0.5); print({line!r}, flush=True); time.sleep(3600)"
    task = script(code, announces=True, argv=(sys.executable, "-I", "-S", "-c", code))
    launching = asyncio.ensure_future(runtime.launch(task, deadline_ms=DEADLINE_MS))
    while not folder.is_held() or not folder.running().content:
        await asyncio.sleep(0.01)
    (folder.path / ".task.json.tmp").mkdir()
    with pytest.raises(TaskFailed, match="state cannot be written"):
        await launching
    assert await runtime.list() == ()
    (folder.path / ".task.json.tmp").rmdir()


async def test_settings_show_nowhere(ground: ProcessGround) -> None:
    """Not in the process list, and not on the disk."""
    runtime = await ground.agent()
    await runtime.launch(ground.task("serve", stdin=b"very-secret"), deadline_ms=DEADLINE_MS)
    folder = folder_of(ground)
    for path in folder.path.iterdir():
        assert path.is_dir() or path.is_fifo() or b"very-secret" not in path.read_bytes()
    assert (folder.path.stat().st_mode & 0o777) == 0o700
    for pid in [folder.holder_pid, *offspring.below(folder.holder_pid)]:
        assert b"very-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_tree_that_was_closed_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    inner = tmp_path / "tree" / "closed"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    inner.chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "kept" / "file").exists()


def test_a_folder_that_somebody_holds_cannot_be_taken(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "engine-1")
    running = folder.running()
    lock = folder.take(running, "a=b")
    try:
        assert folder.is_held()
        with pytest.raises(BlockingIOError):
            folder.take(running, "a=b")
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    assert not folder.is_held()
