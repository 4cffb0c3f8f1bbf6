"""The caretaker keeps a runtime's tasks alive and ends those that are nobody's."""

import asyncio

import pytest
from tests.makers import MANIFEST
from tests.stations.miner.house import House, Tenant

from penstock.adapters.runtimes.errors import NoCluster
from penstock.kit.runtime import BEAT_EVERY_MS, ORPHAN_MS, Running, TaskFailed
from penstock.kit.tasks import Scope
from penstock.miner.budget import Share
from penstock.miner.caretaker import Caretaker
from penstock.miner.instance import Instance
from penstock.sim.loop import VirtualLoop, run


class Sick(House):
    """A runtime that does not answer for a while."""

    is_sick = True
    trouble: Exception = TaskFailed(name="x", reason="the daemon is away")

    async def list(self) -> tuple[Running, ...]:
        if self.is_sick:
            raise self.trouble
        return await super().list()


class Deaf(House):
    """A runtime that never answers."""

    async def list(self) -> tuple[Running, ...]:
        await asyncio.Event().wait()
        return ()


def tenant(house: House, name: str) -> None:
    instance = Instance(name, "c", MANIFEST, auto=True, share=Share(("cpu",), 1))
    house.tenants[name] = Tenant(instance.launch)


def test_strays_end_and_what_is_known_stays() -> None:
    house = House()
    for name in ("m-1-0a", "m-2-0a"):
        tenant(house, name)
    run(Caretaker(house, lambda name: name == "m-1-0a").look(), VirtualLoop())
    assert sorted(house.tenants) == ["m-1-0a"]


def test_it_beats_often_enough_that_nothing_becomes_an_orphan() -> None:
    house = House()

    async def main() -> None:
        async with Scope() as scope:
            scope.start("caretaker", Caretaker(house, lambda _: True).run())
            await asyncio.sleep(10 * ORPHAN_MS / 1000)
            scope.cancel()

    run(main(), VirtualLoop(horizon_ms=3_600_000))
    assert house.beats >= 10 * ORPHAN_MS // BEAT_EVERY_MS


@pytest.mark.parametrize(
    "trouble",
    [
        TaskFailed(name="x", reason="the daemon is away"),
        NoCluster("ray", "auto", "the daemon is away"),
    ],
)
def test_a_runtime_that_does_not_answer_is_told_and_asked_again(trouble: Exception) -> None:
    sick, deaf = Sick(), Deaf()
    sick.trouble = trouble
    keepers = [Caretaker(house, lambda _: False) for house in (sick, deaf)]
    tenant(sick, "stray")

    async def main() -> None:
        async with Scope() as scope:
            for keeper in keepers:
                scope.start("caretaker", keeper.run())
            await asyncio.sleep(60)
            assert "the daemon is away" in keepers[0].why
            assert "does not answer" in keepers[1].why
            sick.is_sick = False
            await asyncio.sleep(60)
            scope.cancel()

    run(main(), VirtualLoop(horizon_ms=3_600_000))
    assert keepers[0].why == ""
    assert sick.tenants == {}
    assert keepers[1].why != ""
