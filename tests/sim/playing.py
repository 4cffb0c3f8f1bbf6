"""Worlds for tests: short ones, played at once."""

from penstock.sim.loop import VirtualLoop
from penstock.sim.result import Result
from penstock.sim.world import World, play

SHORT_MS = 36_000


def new_world(seed: int, *, length_ms: int = SHORT_MS) -> World:
    """A world that has not begun."""
    return World(seed, length_ms=length_ms, loop=VirtualLoop())


def played(seed: int, *, length_ms: int = SHORT_MS) -> Result:
    """A world that is over."""
    world = new_world(seed, length_ms=length_ms)
    play(world)
    return world.result()


def broken_rules(result: Result) -> set[str]:
    """The names of the rules that did not hold."""
    return {one.check for one in result.broken}
