"""Tasks that take, write, start or say too much, and tasks that say where they are not."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.runtime_grounds import DEADLINE_MS, ProcessGround, bounded, gone, process_ground, script

from penstock.adapters.runtimes.sandbox import Bounds
from penstock.adapters.runtimes.task_folder import TaskFolder
from penstock.kit.runtime import ORPHAN_MS, TaskFailed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="holders are Linux's")


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[ProcessGround]:
    async with process_ground(tmp_path, ORPHAN_MS) as made:
        yield made


async def test_a_flood_of_words_stays_within_its_bound(tmp_path: Path) -> None:
    async with bounded(tmp_path, log_bytes_max=1 << 20) as runtime:
        flood = "import sys\nfor n in range(200_000): sys.stderr.write(f'{n} ' + 'x' * 30 + '\\n')"
        await runtime.launch(script(flood), deadline_ms=DEADLINE_MS)
        assert (await runtime.wait("engine-1")).status == 0
        folder = tmp_path / "runtime" / "tasks" / "engine-1"
        sizes = [(folder / name).stat().st_size for name in ("log", "log.1")]
        assert sum(sizes) <= 1 << 20
        assert (await runtime.logs("engine-1", bytes_max=600_000)).endswith("x\n")
        assert "199999 x" in await runtime.logs("engine-1", bytes_max=4096)


async def test_too_many_processes_end_the_task(tmp_path: Path) -> None:
    async with bounded(tmp_path, bounds=Bounds(processes_max=20)) as runtime:
        bomb = (
            "import os, time\n"
            "for _ in range(60):\n"
            "    try:\n"
            "        if os.fork() == 0:\n"
            "            time.sleep(3600)\n"
            "    except BlockingIOError:\n"
            "        os._exit(5)\n"
            "time.sleep(3600)\n"
        )
        await runtime.launch(script(bomb), deadline_ms=DEADLINE_MS)
        marker = TaskFolder(tmp_path / "runtime" / "tasks" / "engine-1").marker
        ending = await runtime.wait("engine-1")
        assert "processes" in ending.reason or ending.status == 5
        await gone(marker)


async def test_a_private_folder_that_grows_too_far_ends_the_task(tmp_path: Path) -> None:
    async with bounded(tmp_path, bounds=Bounds(scratch_bytes_max=1 << 20)) as runtime:
        fill = (
            "import os, time\n"
            "for n in range(4):\n"
            "    open(os.environ['TMPDIR'] + f'/{n}', 'wb').write(bytes(1 << 19))\n"
            "time.sleep(3600)\n"
        )
        await runtime.launch(script(fill), deadline_ms=DEADLINE_MS)
        assert "private folder grew" in (await runtime.wait("engine-1")).reason


@pytest.mark.parametrize(
    "said",
    [
        '{"address": "http://10.0.0.1:80"}',
        '{"address": "http://127.0.0.1:99999"}',
        '{"address": "http://127.0.0.1:80/../x"}',
        '{"address": ["http://127.0.0.1:80"]}',
        '{"address": ""}',
    ],
)
async def test_an_address_elsewhere_is_not_believed(ground: ProcessGround, said: str) -> None:
    runtime = await ground.agent()
    code = f"import time; print({said!r}, flush=True); time.sleep(3600)"
    task = script(code, announces=True, argv=(sys.executable, "-I", "-S", "-c", code))
    with pytest.raises(TaskFailed, match="no port of this host"):
        await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert await runtime.list() == ()


async def test_large_settings_reach_a_task_that_reads_slowly(ground: ProcessGround) -> None:
    runtime = await ground.agent()
    code = "import sys, time; time.sleep(0.2); print(len(sys.stdin.read()), flush=True)"
    await runtime.launch(script(code, stdin=b"x" * 1_000_000), deadline_ms=DEADLINE_MS)
    await runtime.wait("engine-1")
    assert "1000000" in await runtime.logs("engine-1", bytes_max=100)


async def test_old_logs_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    async with bounded(tmp_path, ended_max=2) as runtime:
        for number in range(5):
            task = script("print('hello')", name=f"engine-{number}")
            await runtime.launch(task, deadline_ms=DEADLINE_MS)
            await runtime.wait(task.name)
        left = sorted(path.name for path in (tmp_path / "runtime" / "tasks").iterdir())
        assert left == ["engine-2", "engine-3", "engine-4"]
