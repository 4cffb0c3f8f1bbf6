"""Several nodes of one owner in a whole market: each with a key of its own, one inventory."""

from dataclasses import replace
from typing import Any

from tests.sim.playing import SHORT_MS

from penstock.market.views import miners_view
from penstock.sim.cast import CHAT, Cast, Fault, FaultPart, Trait, draw_cast
from penstock.sim.loop import VirtualLoop
from penstock.sim.world import World, play
from penstock.spec.entries import EntryKind

SEED = 3
OWNER = "the-owner"


def owned(*, faults: tuple[FaultPart, ...] = (), machine: str = "") -> Cast:
    """This seed's cast, where every miner is an honest node of one owner that serves chat."""
    cast = draw_cast(SEED, length_ms=SHORT_MS)
    miners = tuple(
        replace(
            one,
            owner=OWNER,
            machine=machine,
            trait=Trait.HONEST,
            claimed_ppm=1_000_000,
            clock_skew_ms=0,
            chutes=tuple({*one.chutes, CHAT}),
        )
        for one in cast.miners
    )
    return replace(cast, miners=miners, faults=faults)


class Watched(World):
    """A world that is looked at before people have gone home."""

    shown: dict[str, Any]
    health: dict[str, dict[str, Any]]

    async def _come_to_rest(self) -> None:
        assert self.operator.market is not None
        self.shown = miners_view(self.operator.market)
        self.health = {
            name: host.miner.health() for name, host in self.miners.items() if host.miner
        }
        await super()._come_to_rest()


def played(cast: Cast, *, length_ms: int = SHORT_MS) -> Watched:
    world = Watched(SEED, length_ms=length_ms, loop=VirtualLoop(), cast=cast)
    play(world)
    return world


def earners(world: World) -> set[str]:
    """Miners whose records stand in the log, completed and countersigned."""
    log = world.ground.ledger_store.log
    records = [one for one in log if one.kind is EntryKind.RECORD]
    return {one.row.miner for one in records if one.row is not None and one.row.success}


def test_nodes_with_delegated_keys_serve_are_logged_and_stand_every_audit() -> None:
    """Offers, sessions, orders, seals, records, scores, payouts, `penstock verify`: `broken` tells of
    whatever did not hold.
    """
    world = played(owned())
    result = world.result()
    assert result.broken == ()
    assert result.epochs_audited > 0
    assert result.outcomes["complete"] > 50
    identities = {host.identity for host in world.miners.values()}
    assert len(identities) == len(world.miners) > 1
    assert earners(world) == identities, "every node earns under its own key"


def test_the_market_and_every_node_show_one_inventory() -> None:
    world = played(owned())
    owner = world.ground.key(OWNER).identity
    assert {one["owner"] for one in world.shown["miners"]} == {owner}
    listed = {one["miner"] for one in world.shown["miners"]}
    assert listed == {host.identity for host in world.miners.values()}
    for name, health in world.health.items():
        own = world.miners[name].identity
        assert health["owner"] == owner
        assert {one["miner"] for one in health["nodes"]} == listed - {own}
        assert all(one["instances"] for one in health["nodes"])
        assert health["problems"] == []


def test_nodes_of_one_machine_all_serve_as_one_device() -> None:
    world = played(owned(machine="one"))
    assert world.result().broken == ()
    assert {one["miner"] for one in world.shown["miners"]} == earners(world)
    assert len({slot["device"] for one in world.health.values() for slot in one["slots"]}) == 1


def test_a_killed_node_comes_back_under_the_names_that_it_had() -> None:
    cast = owned()
    faults = tuple(
        FaultPart(Fault.MINER_DIES, at_ms=10_000, lasts_ms=3_000, aim=number)
        for number in range(len(cast.miners))
    )
    world = played(replace(cast, faults=faults))
    result = world.result()
    assert result.broken == ()
    assert result.faults == len(cast.miners)
    for name, health in world.health.items():
        numbers = {one["instance"].removeprefix(f"{name}-")[0] for one in health["instances"]}
        assert numbers <= {"1", "2"}, "a life that begins anew counts no further"
