"""Child processes: started, watched, stopped, and never left behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.servers import free_port

from penstock.adapters.child_process import ChildProcess, Command, rotate_log
from penstock.adapters.errors import ChildExited, NotReady, ProgramMissing

DEADLINE_S = 60
DEADLINE_MS = 60_000
PARENT = """
import asyncio, sys, time
from pathlib import Path
from penstock.adapters.child_process import ChildProcess, Command

async def main():
    home = Path(sys.argv[1])
    run = (sys.executable, "-c", "import time; time.sleep(600)")
    child = await ChildProcess.start(Command(run, {}, home, home / "grandchild.log"))
    print("child", child.pid, flush=True)
    time.sleep(600)

asyncio.run(main())
"""
IS_ROOT = os.geteuid() == 0


def python(tmp_path: Path, script: str, **changes: object) -> Command:
    fields: dict[str, object] = {
        "argv": (sys.executable, "-c", script),
        "env": {"PATH": "/usr/bin:/bin"},
        "cwd": tmp_path,
        "log": tmp_path / "child.log",
    }
    return Command(**(fields | changes))  # type: ignore[arg-type] # the fields of Command


async def test_the_child_gets_its_arguments_folder_and_environment_and_writes_to_its_log(
    tmp_path: Path,
) -> None:
    script = (
        "import os, sys; print(os.getcwd(), *sorted(os.environ), flush=True); "
        "print('err', file=sys.stderr)"
    )
    child = await ChildProcess.start(python(tmp_path, script, env={"PATH": "/bin", "ONE": "1"}))
    assert await child.wait() == 0
    # Python itself may add LC_CTYPE when there is no locale.
    words = (tmp_path / "child.log").read_text().split()
    assert [word for word in words if word != "LC_CTYPE"] == [str(tmp_path), "ONE", "PATH", "err"]


async def test_logs_of_several_runs_are_kept_in_one_file(tmp_path: Path) -> None:
    for number in range(3):
        child = await ChildProcess.start(python(tmp_path, f"print({number})"))
        await child.wait()
        assert child.log_tail() == f"{number}\n"
    assert (tmp_path / "child.log").read_text() == "0\n1\n2\n"


def test_a_log_that_grew_too_large_is_moved_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    rotate_log(log, bytes_max=10)
    for text in ("first, too large", "second, too large"):
        log.write_text(text)
        rotate_log(log, bytes_max=10)
        assert not log.exists()
        assert (tmp_path / "logs" / "x.log.1").read_text() == text


async def test_a_missing_program_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match="no-such-program"):
        await ChildProcess.start(python(tmp_path, "", argv=("no-such-program",)))


async def test_ready_is_when_a_line_appears(tmp_path: Path) -> None:
    script = "import time; print('now serving', flush=True); time.sleep(600)"
    child = await ChildProcess.start(python(tmp_path, script))
    await child.wait_line("now serving", deadline_ms=DEADLINE_MS)
    assert child.status is None
    assert await child.terminate(deadline_ms=DEADLINE_MS) == -signal.SIGTERM


async def test_a_line_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "child.log").write_text("now serving\n")
    child = await ChildProcess.start(python(tmp_path, "import time; time.sleep(600)"))
    try:
        with pytest.raises(NotReady, match=r"less .*child"):
            await child.wait_line("now serving", deadline_ms=300)
    finally:
        await child.kill()


async def test_ready_is_when_a_port_accepts(tmp_path: Path) -> None:
    port = free_port()
    script = (
        "import socket, time; s = socket.socket(); s.setsockopt(1, 2, 1); "
        f"s.bind(('127.0.0.1', {port})); s.listen(); time.sleep(600)"
    )
    child = await ChildProcess.start(python(tmp_path, script))
    await child.wait_port("127.0.0.1", port, deadline_ms=DEADLINE_MS)
    await child.terminate(deadline_ms=DEADLINE_MS)


async def test_an_end_before_ready_is_told_with_status_and_log(tmp_path: Path) -> None:
    child = await ChildProcess.start(python(tmp_path, "print('no disk'); raise SystemExit(3)"))
    with pytest.raises(ChildExited, match="status 3") as caught:
        await child.wait_line("never", deadline_ms=DEADLINE_MS)
    assert "no disk" in str(caught.value)


async def test_a_child_that_ignores_the_request_is_killed_with_its_children(
    tmp_path: Path,
) -> None:
    script = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        "if pid: print('grandchild', pid, flush=True)\n"
        "time.sleep(600)"
    )
    child = await ChildProcess.start(python(tmp_path, script))
    await child.wait_line("grandchild", deadline_ms=DEADLINE_MS)
    grandchild = int(child.log_tail().split()[1])
    assert await child.terminate(deadline_ms=200) == -signal.SIGKILL
    await gone(grandchild)


async def test_terminating_twice_or_after_the_end_is_harmless(tmp_path: Path) -> None:
    child = await ChildProcess.start(python(tmp_path, "raise SystemExit(5)"))
    assert await child.wait() == 5
    assert await child.terminate(deadline_ms=DEADLINE_MS) == 5
    assert await child.kill() == 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a death signal")
async def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    argv = (sys.executable, str(script), str(tmp_path))
    parent = await ChildProcess.start(python(tmp_path, "", argv=argv))
    await parent.wait_line("child", deadline_ms=DEADLINE_MS)
    child = int(parent.log_tail().split()[1])
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await gone(child)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
async def test_a_child_runs_as_another_user_in_a_folder_that_user_cannot_reach(
    tmp_path: Path,
) -> None:
    home = tmp_path / "closed" / "home"
    home.mkdir(parents=True)
    home.parent.chmod(0o700)
    os.chown(home, 65534, 65534)
    command = Command(
        argv=("/bin/sh", "-c", "id -u; id -g; id -G; echo mine > file; cat file"),
        env={"PATH": "/usr/bin:/bin"},
        cwd=home,
        log=tmp_path / "child.log",
        uid=65534,
        gid=65534,
    )
    child = await ChildProcess.start(command)
    assert await child.wait() == 0
    assert (tmp_path / "child.log").read_text().split() == ["65534", "65534", "65534", "mine"]
    assert (home / "file").stat().st_uid == 65534


async def gone(pid: int) -> None:
    """Wait until there is no such process (or only its name, not yet collected)."""
    async with asyncio.timeout(DEADLINE_S):
        while is_running(pid):
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return False
    return fields[0] not in ("Z", "X")
