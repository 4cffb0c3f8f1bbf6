"""The parts of the cluster runtimes that need no cluster."""

import asyncio
import os
from pathlib import Path

import pytest

from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.home_id import home_id
from penstock.adapters.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime
from penstock.adapters.runtimes.ray_group import bundle
from penstock.adapters.runtimes.ray_rank import check_ray_task, join, own_folder
from penstock.adapters.runtimes.task_wire import (
    Told,
    read_task,
    read_told,
    spell,
    spell_task,
    told_failure,
)
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import Ending, Needs, Reach, Running, Task, TaskFailed, task_content

TASK = Task(
    name="engine-1",
    argv=("program", "{port}"),
    env={"A": "ü"},
    stdin=bytes(range(256)),
    readable=(Path("/models"),),
    writable=(Path("/cache"),),
    needs=Needs(cpu_milli=1, gpus=2, nodes=3, reach=Reach.HOST),
)


def test_a_task_is_the_same_on_the_other_side() -> None:
    assert read_task(spell_task(TASK)) == TASK
    assert task_content(read_task(spell_task(TASK))) == task_content(TASK)


def test_what_is_told_arrives_whole() -> None:
    running = Running("a", "c", "http://127.0.0.1:1", 5)
    told = Told(running=(running,), ending=Ending(-9, "why", "log"))
    assert read_told(spell(told)) == told
    assert told.one("a") == running
    failure = TaskFailed(name="a", reason="why.", log_tail="log", remedy="do")
    with pytest.raises(TaskFailed) as failed:
        read_told(spell(told_failure(failure))).one("a")
    assert failed.value.args == failure.args


def test_silence_is_a_failure() -> None:
    with pytest.raises(TaskFailed):
        Told().one("a")


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task("a", ("p",), {}, image="i"), "not images"),
        (Task("a", ("p",), {}, needs=Needs(gpus=1, gpu_uuids=("u",))), "chooses the GPUs"),
        (Task("a", ("p",), {}, needs=Needs(nodes=2)), "must call each other"),
    ],
)
def test_what_ray_does_not_do_is_refused_by_name(task: Task, reason: str) -> None:
    with pytest.raises(TaskFailed, match=reason):
        check_ray_task(task)
    check_ray_task(TASK)


def test_a_bundle_is_never_empty() -> None:
    assert bundle(Needs()) == {"CPU": 0.001}
    asked = Needs(cpu_milli=2_000, memory_bytes=5, gpus=2)
    assert bundle(asked) == {"CPU": 2.0, "GPU": 2.0, "memory": 5.0}


def test_a_home_keeps_its_name_and_no_two_share_one(tmp_path: Path) -> None:
    first = home_id(tmp_path / "a", os.urandom)
    assert home_id(tmp_path / "a", os.urandom) == first
    assert home_id(tmp_path / "b", os.urandom) != first


@pytest.mark.parametrize("spoilt", ["", "../../etc", "0123456789ABCDEF", "x" * 16])
def test_a_spoilt_name_is_not_replaced_in_silence(tmp_path: Path, spoilt: str) -> None:
    (tmp_path / "id").write_text(spoilt)
    with pytest.raises(ValueError, match="restore it"):
        home_id(tmp_path, os.urandom)


def test_ranks_do_not_use_a_folder_that_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = own_folder("rank-0")
    assert place.parent.stat().st_mode & 0o777 == 0o700
    place.parent.chmod(0o777)
    with pytest.raises(PermissionError):
        own_folder("rank-0")
    place.parent.rmdir()
    place.parent.symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        own_folder("rank-0")


async def test_a_rank_carries_bytes_both_ways_until_both_are_done() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as inner:
        port = inner.sockets[0].getsockname()[1]

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await join(reader, writer, port)
            writer.close()

        async with await asyncio.start_server(joined, "127.0.0.1", 0) as outer:
            reader, writer = await asyncio.open_connection(*outer.sockets[0].getsockname())
            writer.write(b"words" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"WORDS" * 100_000
            writer.close()


async def test_a_rank_whose_engine_does_not_listen_closes_the_call() -> None:
    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await join(reader, writer, 1)
        writer.close()

    async with await asyncio.start_server(joined, "127.0.0.1", 0) as outer:
        reader, writer = await asyncio.open_connection(*outer.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()


async def test_without_a_cluster_the_way_to_one_is_said(tmp_path: Path) -> None:
    pytest.importorskip("kubernetes")
    config = KubernetesConfig("engines", tmp_path / "no-such-file")
    with pytest.raises(NoCluster, match="kubectl auth can-i"):
        await KubernetesRuntime.open(tmp_path, config, clock=SystemClock(), entropy=os.urandom)
