"""An engine outlives its agent: kill -9 of the agent, of the engine, and the end in order, for real."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest
from tests.stations.miner.test_app import DEADLINE_S, TINY, Peer, chat, miner_process, post

from penstock.adapters.runtimes.task_folder import TaskFolder
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets


def folder(home: Path, instance: str) -> TaskFolder:
    return TaskFolder(home / "runtime" / "tasks" / instance)


def members(marker: str) -> list[int]:
    """The processes of a task: its mark stands in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            marked = marker.encode() in (path / "environ").read_bytes()
        except OSError:
            continue  # It has ended, or is not ours.
        if marked:
            found.append(int(path.name))
    return found


async def is_well(address: str) -> bool:
    client = HttpClient(Sockets())
    try:
        return (await client.call("GET", f"{address}/health", deadline_ms=10_000)).status == 200
    finally:
        await client.close()


@pytest.mark.slow
async def test_after_kill_9_of_the_agent_the_engine_serves_on_and_is_offered_without_a_reload(
    tmp_path: Path,
) -> None:
    """Slow because llama.cpp starts: once for the first life, once after its own kill."""
    home, peer = tmp_path / "m", Peer(TINY)
    async with peer.open():
        async with miner_process(peer, home) as process:
            first = await peer.wait_offer()
            before = folder(home, first.instance).running()
            process.kill()
            await process.wait()
        assert await is_well(before.address), "it answers while there is no agent"
        peer.offers.clear()
        async with miner_process(peer, home) as process:
            again = await peer.wait_offer()
            assert (again.instance, again.seq > first.seq) == (first.instance, True)
            assert folder(home, first.instance).running() == before, "the very same start"
            _, reply = await post(again, chat("Hello!", max_tokens=4), order_id="o-1")
            assert reply.status == 200, reply.body
            for pid in members(folder(home, first.instance).marker):
                os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE_S):
                while not peer.withdrawn:
                    await asyncio.sleep(0.02)
            peer.offers.clear()
            fresh = await peer.wait_offer()
            assert fresh.instance == first.instance
            assert folder(home, first.instance).running().started_ms > before.started_ms
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_S):
                assert await process.wait() == 0
        assert not folder(home, first.instance).is_held(), "an end in order ends the engine"
        lines = (home / "instances.jsonl").read_bytes().splitlines()
        said = [msgspec.json.decode(line).get("event") for line in lines]
        assert said[:6] == [None, "place", "start", "pulled", "loaded", "passed"]
        assert said[6:11] == ["returned", "start", "pulled", "loaded", "passed"]
        assert said[11] == "broke"
