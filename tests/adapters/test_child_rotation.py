"""Child processes at their edges: logs that are full, input that is given, ends nobody waited for."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.child_process import (
    LOG_TAIL_BYTES_MAX,
    ChildProcess,
    Command,
    is_port_open,
    rotate_log,
)
from penstock.adapters.errors import ChildExited, NotReady

DEADLINE_MS = 60_000
SLEEP = "import time; time.sleep(600)"


def python(tmp_path: Path, script: str, **changes: Any) -> Command:
    fields: dict[str, Any] = {
        "argv": (sys.executable, "-c", script),
        "env": {"PATH": "/usr/bin:/bin"},
        "cwd": tmp_path,
        "log": tmp_path / "logs" / "child.log",
        **changes,
    }
    return Command(**fields)


async def ran(command: Command) -> tuple[int, str]:
    """(status, end of the log) of a child that ends by itself."""
    child = await ChildProcess.start(command)
    async with asyncio.timeout(DEADLINE_MS / 1000):
        return await child.wait(), child.log_tail()


@pytest.mark.parametrize(("size", "is_moved"), [(9, False), (10, False), (11, True)])
def test_a_log_is_moved_aside_only_beyond_its_bound(
    tmp_path: Path,
    size: int,
    is_moved: bool,
) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"x" * size)
    rotate_log(log, bytes_max=10)
    assert log.exists() is not is_moved
    assert (tmp_path / "x.log.1").exists() is is_moved


async def test_a_full_log_is_moved_at_a_restart_and_the_new_run_is_read_from_its_start(
    tmp_path: Path,
) -> None:
    command = python(tmp_path, "print('y' * 100)", log_bytes_max=50)
    for _ in range(3):
        status, tail = await ran(command)
        assert (status, tail) == (0, "y" * 100 + "\n")
    assert sorted(entry.name for entry in command.log.parent.iterdir()) == [
        "child.log",
        "child.log.1",
    ]
    assert command.log.read_text() == "y" * 100 + "\n"


async def test_only_the_end_of_a_long_log_is_told(tmp_path: Path) -> None:
    script = f"print('a' * {LOG_TAIL_BYTES_MAX}); print('the last line')"
    _, tail = await ran(python(tmp_path, script))
    assert len(tail) == LOG_TAIL_BYTES_MAX
    assert tail.endswith("the last line\n")


async def test_a_log_that_is_no_text_is_told_all_the_same(tmp_path: Path) -> None:
    _, tail = await ran(python(tmp_path, "import os; os.write(1, b'ok \\xff\\xfe')"))
    assert tail.startswith("ok ")
    assert "\N{REPLACEMENT CHARACTER}" in tail


async def test_what_is_given_as_input_arrives_and_the_input_stays_open(tmp_path: Path) -> None:
    """A secret goes in by stdin; that it closes is how an engine learns that we are gone."""
    script = (
        "import sys; print(sys.stdin.readline().strip(), flush=True); "
        "sys.stdin.read(); print('closed', flush=True)"
    )
    child = await ChildProcess.start(python(tmp_path, script, stdin=b"secret\n"))
    await child.wait_line("secret", deadline_ms=DEADLINE_MS)
    assert child.status is None
    assert "closed" not in child.log_tail()
    await child.kill()


async def test_without_input_a_child_reads_the_end_at_once(tmp_path: Path) -> None:
    assert await ran(python(tmp_path, "import sys; print(repr(sys.stdin.read()))")) == (0, "''\n")


async def test_a_program_that_cannot_be_executed_ends_with_a_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nothing that runs")
    broken.chmod(0o755)
    status, tail = await ran(python(tmp_path, "", argv=(str(broken),)))
    assert status == 127
    assert f"cannot start ['{broken}']" in tail


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
async def test_the_signal_that_ended_a_child_is_its_status(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = f"import os; os.kill(os.getpid(), {int(number)})"
    child = await ChildProcess.start(python(tmp_path, script))
    with pytest.raises(ChildExited) as ended:
        await child.wait_line("never", deadline_ms=DEADLINE_MS)
    assert ended.value.status == child.status == -number


async def test_the_signal_to_stop_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; "
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(42)); print('up', flush=True); "
        "time.sleep(600)"
    )
    child = await ChildProcess.start(python(tmp_path, script, stop_signal=signal.SIGINT))
    await child.wait_line("up", deadline_ms=DEADLINE_MS)
    assert await child.terminate(deadline_ms=DEADLINE_MS) == 42


async def test_signals_to_a_child_that_is_gone_reach_nobody(tmp_path: Path) -> None:
    child = await ChildProcess.start(python(tmp_path, "pass"))
    await child.wait()
    for number in (signal.SIGTERM, signal.SIGKILL):
        child.send(number)
    assert await child.kill() == 0
    assert child.status == 0


async def test_a_kill_from_outside_is_seen_while_waiting_to_be_ready(tmp_path: Path) -> None:
    child = await ChildProcess.start(python(tmp_path, SLEEP))

    async def never() -> bool:
        os.kill(child.pid, signal.SIGKILL)
        return False

    with pytest.raises(ChildExited):
        await child.wait_ready(never, deadline_ms=DEADLINE_MS)


async def test_a_check_that_hangs_is_ended_by_the_deadline(tmp_path: Path) -> None:
    child = await ChildProcess.start(python(tmp_path, SLEEP))

    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    try:
        with pytest.raises(NotReady, match="200 ms"):
            await child.wait_ready(hangs, deadline_ms=200)
        assert child.status is None
    finally:
        await child.kill()


async def test_a_child_leads_a_session_of_its_own(tmp_path: Path) -> None:
    """So Ctrl-C in the terminal reaches the parent alone, which then stops it in good order."""
    script = "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))"
    assert await ran(python(tmp_path, script)) == (0, "True\n")


async def test_a_port_that_nobody_serves_is_closed_and_one_that_is_served_is_open() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await is_port_open("127.0.0.1", port)
    assert not await is_port_open("127.0.0.1", port)
