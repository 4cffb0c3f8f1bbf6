"""One task in a Ray cluster: a named, detached actor that owns a placement group and one rank a node.

Everything else belongs to this actor: Ray removes the placement group and ends the ranks when it dies,
so that there is never half a group. For the same reason the end of any rank ends all (the ranks of an
engine cannot go on alone); starting anew is for the miner, which withdraws its offers first.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from penstock.adapters.runtimes.ray_rank import Rank
from penstock.adapters.runtimes.task_wire import Told, read_task, read_told, spell, spell_task
from penstock.kit.runtime import ORPHAN_MS, Ending, Needs, Running, Task
from penstock.kit.tasks import Errands

MILLI = 1000
LOG_BYTES_MAX = 1 << 18
TAIL_BYTES_MAX = 4096
KILL_DEADLINE_MS = 10_000
KEPT_MS = 60_000
"""How long it stays after its task ended, to be asked how and why."""
LOOK_EVERY_MS = 500
PLACE_LOOK_S = 1


class Group:
    """An actor's methods; all but `__init__` are coroutines on its one loop.

    Nothing secret is among the arguments of `__init__`: Ray keeps those in its own store.
    """

    def __init__(self, home_id: str, running: dict[str, Any], orphan_ms: int) -> None:
        self._home_id = home_id
        self._running = Running(**running)
        self._orphan_ms = orphan_ms
        self._errands = Errands()
        self._life: asyncio.Task[None] | None = None
        self._ranks: list[Any] = []
        self._placement: Any = None
        self._told: asyncio.Future[Told] | None = None
        self._ending: Ending | None = None
        self._ended = asyncio.Event()
        self._reason = "it was stopped"
        self._grace_ms = 0
        self._heard_s = 0.0
        self._log = ""

    async def launch(self, spelled: bytes) -> bytes:
        """Start it, once; `Told` as soon as it is known where it serves or that it does not."""
        loop = asyncio.get_running_loop()
        if self._told is None:
            self._told = loop.create_future()
            self._heard_s = loop.time()
            self._life = self._errands.start("group", self._live(read_task(spelled)))
            self._errands.start("group-orphan", self._watch_agents())
        return spell(await asyncio.shield(self._told))

    async def where(self) -> bytes:
        """`Told` with where it runs (address "" while it starts), or nothing when it has ended."""
        return spell(Told() if self._ended.is_set() else Told(running=(self._running,)))

    async def beat(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()

    async def wait(self) -> bytes:
        await self._ended.wait()
        return spell(Told(ending=self._ending))

    async def logs(self, bytes_max: int) -> str:
        text = self._log if self._ended.is_set() else await self._collect(bytes_max)
        return text.encode()[-bytes_max:].decode(errors="replace")

    async def stop(self, reason: str, grace_ms: int) -> None:
        """End all ranks and give the placement back; returns when it has ended."""
        self._reason, self._grace_ms = reason, grace_ms
        if self._life is not None and self._ending is None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._ending is None:  # It had not begun yet.
            self._end(Ending(None, reason, ""), Told(failed=f"{reason}."))
        await self._ended.wait()

    async def _live(self, task: Task) -> None:
        from ray.exceptions import RayError

        assert self._told is not None
        told = Told(failed="its group failed: see the log of its actor on its node.")
        ending = Ending(None, told.failed, "")
        try:
            told = await self._start(task)
            if told.failed:
                ending = Ending(None, told.failed, told.log)
            else:
                self._running = told.one(task.name)
                await self.beat()
                self._told.set_result(told)
                ending = await self._first_end()
        except asyncio.CancelledError:
            ending = Ending(None, self._reason, "")
            told = Told(failed=f"{self._reason}.")
        except RayError as error:
            ending = Ending(None, f"a rank was lost ({type(error).__name__})", "")
            told = Told(failed=f"a rank was lost before it served ({error}).")
        finally:
            self._ending = ending
            tail = await self._clear()
            self._end(Ending(ending.status, ending.reason, ending.log_tail or tail), told)

    def _end(self, ending: Ending, told: Told) -> None:
        self._ending = ending
        self._ended.set()
        if self._told is not None and not self._told.done():
            self._told.set_result(told)
        self._errands.start("group-farewell", self._leave())

    async def _start(self, task: Task) -> Told:
        """Take a place on every node, then start all ranks at once."""
        import ray

        needs = task.needs
        self._placement = ray.util.placement_group(
            [bundle(needs)] * needs.nodes,
            strategy="STRICT_SPREAD" if needs.nodes > 1 else "STRICT_PACK",
            name=f"penstock-{task.name}",
        )
        # `ready()` would start a process of its own on a node, only to tell.
        while not await asyncio.to_thread(self._placement.wait, PLACE_LOOK_S):
            pass
        self._ranks = [self._rank(task, rank) for rank in range(needs.nodes)]
        leader, port = await self._ranks[0].meet.remote()
        spelled = spell_task(task)
        told = [
            read_told(one)
            for one in await gathered(
                [rank.launch.remote(spelled, leader, port) for rank in self._ranks]
            )
        ]
        for number, one in enumerate(told):
            if one.failed:
                return Told(failed=self._named(number, one.failed), log=one.log, remedy=one.remedy)
        where = Running(
            self._running.name,
            self._running.content,
            told[0].one(task.name).address,
            self._running.started_ms,
        )
        return Told(running=(where,))

    def _rank(self, task: Task, rank: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        asked = bundle(task.needs)
        place = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
        options = {
            "num_cpus": asked["CPU"],
            "num_gpus": asked.get("GPU", 0),
            "scheduling_strategy": place,
            "max_restarts": 0,
        }
        if "memory" in asked:
            options["memory"] = asked["memory"]
        where = f"{self._home_id}-{task.name}-{rank}"
        return ray.remote(Rank).options(**options).remote(where, rank, task.needs.nodes)

    async def _first_end(self) -> Ending:
        """Until any rank has ended, or was lost with its node. Raises RayError."""
        waits = [asyncio.wrap_future(rank.wait.remote().future()) for rank in self._ranks]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        first = next(number for number, one in enumerate(waits) if one in done)
        ending = read_told(await waits[first]).ending
        assert ending is not None
        return Ending(ending.status, self._named(first, ending.reason), ending.log_tail)

    async def _clear(self) -> str:
        """End every rank, with grace, then without; the end of their logs."""
        import ray

        if self._ranks:
            ends = [rank.stop.remote(self._grace_ms) for rank in self._ranks]
            await settled(ends, deadline_ms=self._grace_ms + KILL_DEADLINE_MS)
            self._log = await self._collect(LOG_BYTES_MAX)
            leaves = [rank.leave.remote() for rank in self._ranks]
            await settled(leaves, deadline_ms=KILL_DEADLINE_MS)
        for rank in self._ranks:
            ray.kill(rank)
        if self._placement is not None:
            ray.util.remove_placement_group(self._placement)
        return self._log[-TAIL_BYTES_MAX:]

    async def _collect(self, bytes_max: int) -> str:
        """The logs of all ranks, one after another, the leader's last: it says most."""
        parts = [rank.logs.remote(bytes_max // len(self._ranks)) for rank in self._ranks]
        texts = await settled(parts, deadline_ms=KILL_DEADLINE_MS)
        if len(texts) == 1:
            return str(texts[0] or "")
        return "".join(
            f"[rank {rank}]\n{texts[rank] or ''}\n" for rank in reversed(range(len(texts)))
        )

    def _named(self, rank: int, reason: str) -> str:
        return reason if len(self._ranks) == 1 else f"rank {rank}: {reason}"

    async def _watch_agents(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_MS / MILLI)
            is_starting = self._told is not None and not self._told.done()
            patience_ms = max(self._orphan_ms, ORPHAN_MS) if is_starting else self._orphan_ms
            if (loop.time() - self._heard_s) * MILLI > patience_ms:
                break
        await self.stop("no agent has asked for it any more", KILL_DEADLINE_MS)

    async def _leave(self) -> None:
        import ray

        await asyncio.sleep(KEPT_MS / MILLI)
        ray.kill(ray.get_runtime_context().current_actor)


def bundle(needs: Needs) -> dict[str, float]:
    """What Ray sets aside on each node. A bundle cannot be empty, so a task of nothing asks for a trifle."""
    asked = {"CPU": max(needs.cpu_milli, 1) / MILLI}
    if needs.gpus:
        asked["GPU"] = float(needs.gpus)
    if needs.memory_bytes:
        asked["memory"] = float(needs.memory_bytes)
    return asked


async def gathered(calls: list[Awaitable[Any]]) -> list[Any]:
    """All results; the first failure ends the waiting."""
    return list(await asyncio.gather(*calls))


async def settled(calls: list[Any], *, deadline_ms: int) -> list[Any]:
    """The results that came in time, None for the others: the dead and the slow are not waited for."""
    waits = [asyncio.wrap_future(call.future()) for call in calls]
    await asyncio.wait(waits, timeout=deadline_ms / MILLI)
    return [
        one.result() if one.done() and not one.cancelled() and one.exception() is None else None
        for one in waits
    ]
