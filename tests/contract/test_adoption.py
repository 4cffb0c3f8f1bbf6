"""A real engine under a real runtime outlives its agent: the next one takes it over as it is."""

import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine_makers import DEADLINE_MS, Caller, make_world, text_of

from penstock.adapters.engines.catalogue import build_engine
from penstock.adapters.engines.served import ServedEngine
from penstock.adapters.runtimes.process import ProcessConfig, ProcessRuntime
from penstock.kit.clock import SystemClock
from penstock.kit.engine import EngineFailed, EngineLimits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process runtime is for Linux")
LIMITS = EngineLimits(slots_max=2, context_tokens_max=512)


class Agents:
    """One after the other on one home; each is gone before the next one opens it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runtime: ProcessRuntime | None = None

    async def next(self) -> ProcessRuntime:
        if self.runtime is not None:
            self.runtime.close()
        config = ProcessConfig(path=os.environ.get("PATH", os.defpath))
        self.runtime = await ProcessRuntime.open(
            self.home / "runtime", config, clock=SystemClock(), entropy=os.urandom
        )
        return self.runtime

    async def engine(self, limits: EngineLimits = LIMITS) -> ServedEngine:
        """The engine as a new agent builds it."""
        world = replace(make_world(self.home), runtime=await self.next())
        engine = build_engine("llamacpp", "builtin:tiny-chat", limits, world=world, name="m-1")
        assert isinstance(engine, ServedEngine)
        return engine


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Agents]:
    agents = Agents(tmp_path)
    yield agents
    runtime = await agents.next()
    for running in await runtime.list():
        await runtime.stop(running.name, deadline_ms=100)
    runtime.close()


async def test_the_next_agent_goes_on_with_the_engine_as_it_is(agents: Agents) -> None:
    first = await agents.engine()
    await first.start(deadline_ms=DEADLINE_MS)
    worked = (await first.stats()).generated_tokens
    later = await agents.engine()
    await later.start(deadline_ms=DEADLINE_MS)
    assert (later.address, later.capabilities) == (first.address, first.capabilities)
    assert (await later.stats()).generated_tokens > worked
    assert "Nairobi" in text_of(await Caller(later).chat("capital of Kenya?", max_tokens=40))


async def test_an_engine_that_is_wanted_otherwise_is_started_anew(agents: Agents) -> None:
    await (await agents.engine()).start(deadline_ms=DEADLINE_MS)
    later = await agents.engine(replace(LIMITS, slots_max=1))
    await later.start(deadline_ms=DEADLINE_MS)
    assert agents.runtime is not None
    assert [running.name for running in await agents.runtime.list()] == ["m-1"]


async def test_a_stop_ends_it_for_every_agent(agents: Agents) -> None:
    engine = await agents.engine()
    await engine.start(deadline_ms=DEADLINE_MS)
    await engine.stop(deadline_ms=DEADLINE_MS)
    assert (await engine.wait_exit()).wanted
    assert await (await agents.next()).list() == ()


async def test_a_broken_model_leaves_nothing_and_says_why(agents: Agents, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    world = replace(make_world(agents.home), runtime=await agents.next())
    engine = build_engine("llamacpp", f"file:{broken}", LIMITS, world=world, name="m-1")
    with pytest.raises(EngineFailed, match="GGUF"):
        await engine.start(deadline_ms=DEADLINE_MS)
    assert await (await agents.next()).list() == ()
