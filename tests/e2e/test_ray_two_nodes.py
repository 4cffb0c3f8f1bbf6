"""A model on two nodes of a real Ray cluster: placed, asked, taken over, broken, placed anew, stopped."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.ray_nodes import two_nodes

from penstock.adapters.engines.model_files import gguf_path
from penstock.adapters.runtimes import offspring
from penstock.adapters.runtimes.errors import NoCluster
from penstock.adapters.runtimes.ray import RayConfig, RayRuntime
from penstock.adapters.runtimes.ray_rank import own_folder
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import Needs, Reach, Running, Task, TaskFailed, task_content
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets

pytestmark = pytest.mark.slow  # real nodes, and a model on each

DEADLINE_MS = 120_000
NAME = "two-nodes-chat"
PLACES = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
table = ray.util.placement_group_table().values()
live = [one for one in table if one["state"] == "CREATED" and one["name"] == sys.argv[2]]
print(json.dumps([sorted(one["bundles_to_node_id"].values()) for one in live]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with two_nodes() as address:
        yield address


async def agent(home: Path, address: str) -> RayRuntime:
    return await RayRuntime.open(home, RayConfig(address), clock=SystemClock(), entropy=os.urandom)


def chat_task(*, cpu_milli: int = 1_000, nodes: int = 2) -> Task:
    """Our llama.cpp worker on each node: the first is asked, the other only has to stay alive."""
    model = gguf_path("builtin:tiny-chat")
    settings = {
        "path": str(model),
        "model": "tiny-chat",
        "slots_max": 1,
        "context_tokens_max": 256,
        "threads": 1,
        "embeddings": False,
        "tethered": False,
    }
    return Task(
        name=NAME,
        argv=(sys.executable, "-m", "penstock.adapters.engines.llamacpp_worker"),
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        stdin=json.dumps(settings).encode() + b"\n",
        readable=(model,),
        needs=Needs(cpu_milli=cpu_milli, nodes=nodes, reach=Reach.HOST),
        announces=True,
        stop_ms=1_000,
    )


async def chat(running: Running) -> str:
    client = HttpClient(Sockets())
    asked = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 8,
    }
    try:
        reply = await client.call(
            "POST",
            f"{running.address}/v1/chat/completions",
            body=json.dumps(asked).encode(),
            headers=(("content-type", "application/json"),),
            deadline_ms=DEADLINE_MS,
        )
    finally:
        await client.close()
    assert reply.status == 200, reply.body
    answer = msgspec.json.decode(reply.body)
    text = answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0
    assert isinstance(text, str)
    return text


def engines() -> dict[int, int]:
    """Rank -> process id of the engines that live on this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            env = dict(
                one.partition(b"=")[::2] for one in (folder / "environ").read_bytes().split(b"\0")
            )
        except OSError:
            continue
        if b"penstock.adapters.engines.llamacpp_worker" in words and b"PENSTOCK_RANK" in env:
            found[int(env[b"PENSTOCK_RANK"])] = int(folder.name)
    return found


def places(address: str) -> list[list[str]]:
    """The nodes of each live placement group of the task, as Ray itself tells."""
    told = subprocess.run(
        [sys.executable, "-c", PLACES, address, f"penstock-{NAME}"],
        capture_output=True,
        check=True,
        env={"PATH": os.defpath, "HOME": "/nonexistent"},
    )
    found: list[list[str]] = json.loads(told.stdout)
    return found


async def test_a_model_lives_on_two_nodes(cluster: str, tmp_path: Path) -> None:
    task = chat_task()
    runtime = await agent(tmp_path, cluster)
    runtime_id = (tmp_path / "id").read_text()
    first = await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert first.content == task_content(task)
    assert await chat(first)
    [nodes] = await asyncio.to_thread(places, cluster)
    assert len(set(nodes)) == 2
    before = engines()
    assert set(before) == {0, 1}

    # The agent dies without a word; the next one finds the group and takes it over as it is.
    await runtime.closed()
    runtime = await agent(tmp_path, cluster)
    assert await runtime.list() == (first,)
    assert await runtime.launch(task, deadline_ms=DEADLINE_MS) == first
    assert engines() == before

    # Half a group is none: when the second rank dies, the first one goes, too, and all start anew.
    waiting = asyncio.ensure_future(runtime.wait(NAME))
    os.kill(before[1], signal.SIGKILL)
    ending = await waiting
    assert ending.status == -signal.SIGKILL
    assert "rank 1" in ending.reason
    assert await runtime.list() == ()
    assert engines() == {}
    again = await runtime.launch(task, deadline_ms=DEADLINE_MS)
    assert again.started_ms > first.started_ms
    assert await chat(again)
    after = engines()
    assert set(after) == {0, 1}
    assert not set(after.values()) & set(before.values())

    await runtime.stop(NAME, deadline_ms=5_000)
    assert await runtime.list() == ()
    assert engines() == {}
    assert await asyncio.to_thread(places, cluster) == []
    assert not list(own_folder("any").parent.glob(f"{runtime_id}-*"))
    await runtime.closed()


async def test_a_cluster_without_room_says_so_and_keeps_nothing(
    cluster: str, tmp_path: Path
) -> None:
    runtime = await agent(tmp_path, cluster)
    for impossible in (chat_task(cpu_milli=999_000), chat_task(nodes=3)):
        with pytest.raises(TaskFailed) as failed:
            await runtime.launch(impossible, deadline_ms=3_000)
        assert "3000 ms" in failed.value.reason
        assert "ray status" in failed.value.remedy
        assert await runtime.list() == ()
    await runtime.closed()


async def test_where_no_cluster_is_the_way_to_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoCluster) as missing:
        await agent(tmp_path, "127.0.0.1:1")
    assert "ray start" in str(missing.value)


async def test_when_the_groups_own_actor_dies_nothing_is_left_running(
    cluster: str, tmp_path: Path
) -> None:
    runtime = await agent(tmp_path, cluster)
    await runtime.launch(chat_task(), deadline_ms=DEADLINE_MS)
    waiting = asyncio.ensure_future(runtime.wait(NAME))
    for pid in offspring.below(os.getpid()):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Group"):
            os.kill(pid, signal.SIGKILL)
    assert "lost" in (await waiting).reason
    assert await runtime.list() == ()
    while engines():
        await asyncio.sleep(0.1)
    assert await asyncio.to_thread(places, cluster) == []
    await runtime.closed()


async def test_the_agent_finds_its_groups_again_when_its_hand_was_cut_off(
    cluster: str, tmp_path: Path
) -> None:
    runtime = await agent(tmp_path, cluster)
    running = await runtime.launch(chat_task(nodes=1), deadline_ms=DEADLINE_MS)
    waiting = asyncio.ensure_future(runtime.wait(NAME))
    child = runtime._driver._process
    assert child is not None
    child.kill()
    await child.wait()
    assert await runtime.list() == (running,)
    await runtime.stop(NAME, deadline_ms=1_000)
    assert (await waiting).reason == "it was stopped"
    await runtime.closed()
