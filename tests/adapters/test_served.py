"""Engines as tasks of a runtime: start, take over, watch, sleep, drain, stop. On a fake machine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.adapters.stage_engine import (
    ADAPTERS,
    MODEL,
    NAPS,
    Script,
    make_engine,
    make_machine,
    until,
)

from penstock.kit.engine import Capability, EngineFailed, Sleep
from penstock.sim.runtime import FakeMachine

DEADLINE_MS = 30_000
BUSY = "vllm:num_requests_running 1\nvllm:num_requests_waiting 2\n"
SLEEPING = 'vllm:engine_sleep_state{sleep_state="awake"} 0\n'
CONTROL = frozenset({"/sleep", "/wake_up", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"})


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def machine(script: Script) -> AsyncIterator[FakeMachine]:
    machine = make_machine(script)
    yield machine
    await machine.close()


async def is_gone(machine: FakeMachine) -> bool:
    return all(life.ended.is_set() for life in machine.lives.values())


async def test_an_engine_is_ready_when_it_answered_what_the_probe_asked(
    machine: FakeMachine, script: Script
) -> None:
    engine = make_engine(machine)
    assert not (await engine.stats()).ready
    await engine.start(deadline_ms=DEADLINE_MS)
    assert engine.model == MODEL
    assert engine.capabilities == {Capability.CHAT}
    assert script.paths.index("/health") < script.paths.index("/v1/chat/completions")
    script.page = BUSY
    stats = await engine.stats()
    assert (stats.running, stats.waiting, stats.ready) == (1, 2, True)


async def test_the_next_agent_takes_the_engine_over_without_a_new_start(
    machine: FakeMachine, script: Script
) -> None:
    first = make_engine(machine)
    await first.start(deadline_ms=DEADLINE_MS)
    later = make_engine(machine)
    await later.start(deadline_ms=DEADLINE_MS)
    assert script.starts == 1
    assert (later.address, later.capabilities) == (first.address, first.capabilities)


async def test_an_engine_of_another_name_is_another_engine(
    machine: FakeMachine, script: Script
) -> None:
    first, other = make_engine(machine), make_engine(machine, name="two")
    await first.start(deadline_ms=DEADLINE_MS)
    await other.start(deadline_ms=DEADLINE_MS)
    assert script.starts == 2
    assert first.address != other.address


async def test_a_model_that_it_does_not_name_is_not_served(
    machine: FakeMachine, script: Script
) -> None:
    script.listed = ("other",)
    with pytest.raises(EngineFailed, match="was not ready after 300 ms"):
        await make_engine(machine).start(deadline_ms=300)
    assert await is_gone(machine)


async def test_an_engine_that_is_not_well_yet_is_waited_for(
    machine: FakeMachine, script: Script
) -> None:
    script.health = 503
    starting = asyncio.ensure_future(make_engine(machine).start(deadline_ms=DEADLINE_MS))
    await until(lambda: script.paths.count("/health") > 2)
    assert not starting.done()
    assert "/v1/models" not in script.paths
    script.health = 200
    await starting


async def test_big_weights_get_the_time_that_they_take(
    machine: FakeMachine, script: Script
) -> None:
    script.health = 503
    engine = make_engine(machine, start_ms=DEADLINE_MS)
    loop = asyncio.get_running_loop()
    too_late = loop.time() + 1
    starting = asyncio.ensure_future(engine.start(deadline_ms=1_000))
    await until(lambda: loop.time() > too_late and script.paths.count("/health") > 2)
    script.health = 200
    await starting


async def test_a_known_line_in_the_log_ends_the_wait_at_once(
    machine: FakeMachine, script: Script
) -> None:
    script.health = 503
    script.log = "ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    with pytest.raises(EngineFailed) as failed:
        await make_engine(machine).start(deadline_ms=10 * DEADLINE_MS)
    assert "CUDA out of memory" in failed.value.reason
    assert "shorter context" in failed.value.remedy
    assert await is_gone(machine)


async def test_an_engine_that_ends_is_reported_with_its_last_words(
    machine: FakeMachine, script: Script
) -> None:
    script.status, script.log = 3, "OSError: x does not appear to have a file named config.json"
    with pytest.raises(EngineFailed) as failed:
        await make_engine(machine).start(deadline_ms=DEADLINE_MS)
    assert "config.json" in failed.value.reason
    assert "fetched again" in failed.value.remedy
    assert "config.json" in failed.value.log_tail


async def test_what_cannot_be_launched_leaves_nothing(machine: FakeMachine) -> None:
    def prepare() -> None:
        raise EngineFailed(reason="There is no model.", log_tail="", remedy="Fetch it.")

    with pytest.raises(EngineFailed, match="There is no model"):
        await make_engine(machine, prepare=prepare).start(deadline_ms=DEADLINE_MS)
    assert not machine.lives


async def test_stop_waits_for_what_runs_and_what_waits(
    machine: FakeMachine, script: Script
) -> None:
    engine = make_engine(machine)
    await engine.start(deadline_ms=DEADLINE_MS)
    script.page, before = BUSY, len(script.seen)
    stopping = asyncio.ensure_future(engine.stop(deadline_ms=DEADLINE_MS))
    await until(lambda: script.paths[before:].count("/metrics") > 2)
    assert not await is_gone(machine)
    script.page = ""
    await stopping
    assert await is_gone(machine)
    assert (await engine.wait_exit()).wanted
    assert not (await engine.stats()).ready


async def test_a_drain_has_an_end(machine: FakeMachine, script: Script) -> None:
    engine = make_engine(machine)
    await engine.start(deadline_ms=DEADLINE_MS)
    script.page = BUSY
    await engine.stop(deadline_ms=50)
    assert await is_gone(machine)


async def test_an_end_that_nobody_wanted_is_told_apart(
    machine: FakeMachine, script: Script
) -> None:
    engine = make_engine(machine)
    await engine.start(deadline_ms=DEADLINE_MS)
    life = machine.lives["one"]
    life.stage.say("CUDA error: no kernel image is available for execution on the device")
    life.killed.set()
    ended = await engine.wait_exit()
    assert not ended.wanted
    assert "status -9" in ended.reason
    assert "no kernels for this card" in ended.remedy


async def test_its_key_goes_with_every_request(machine: FakeMachine, script: Script) -> None:
    engine = make_engine(machine, headers=(("authorization", "Bearer s3cret"),), naps=NAPS)
    script.routes = CONTROL
    await engine.start(deadline_ms=DEADLINE_MS)
    await engine.stats()
    assert {key for _, _, key in script.seen} == {"Bearer s3cret"}
    assert engine.headers == (("authorization", "Bearer s3cret"),)


async def test_sleep_is_a_capability_when_it_woke_up_again(
    machine: FakeMachine, script: Script
) -> None:
    script.routes = CONTROL
    engine = make_engine(machine, naps=NAPS)
    await engine.start(deadline_ms=DEADLINE_MS)
    assert Capability.SUSPEND in engine.capabilities
    assert script.paths[-3:] == ["/sleep?level=1", "/wake_up?from=1", "/v1/chat/completions"]
    await engine.suspend(Sleep.DEEP)
    stats = await engine.stats()
    assert (stats.ready, stats.is_suspended) == (False, True)
    await engine.resume()
    assert script.paths[-1] == "/wake_up?from=2"
    assert (await engine.stats()).ready


async def test_without_the_route_there_is_no_such_capability(
    machine: FakeMachine, script: Script
) -> None:
    engine = make_engine(machine, naps=NAPS, adapters=ADAPTERS)
    await engine.start(deadline_ms=DEADLINE_MS)
    assert not {Capability.SUSPEND, Capability.LORA} & engine.capabilities
    assert (await engine.stats()).ready


async def test_an_engine_that_was_left_asleep_is_woken_before_it_is_asked(
    machine: FakeMachine, script: Script
) -> None:
    script.routes = CONTROL
    await make_engine(machine, naps=NAPS).start(deadline_ms=DEADLINE_MS)
    script.page = SLEEPING
    later, before = make_engine(machine, naps=NAPS), len(script.seen)
    starting = asyncio.ensure_future(later.start(deadline_ms=DEADLINE_MS))
    await until(lambda: "/wake_up?from=2" in script.paths[before:])
    script.page = ""
    await starting
    asked = script.paths[before:]
    assert asked.index("/wake_up?from=2") < asked.index("/v1/chat/completions")


async def test_adapters_come_and_go_by_the_engines_own_words(
    machine: FakeMachine, script: Script
) -> None:
    script.routes = CONTROL
    engine = make_engine(machine, adapters=ADAPTERS)
    await engine.start(deadline_ms=DEADLINE_MS)
    assert Capability.LORA in engine.capabilities
    await engine.load_adapter("poet", Path("/weights/poet"))
    await engine.unload_adapter("poet")
    assert script.bodies[-2:] == [{"name": "poet", "path": "/weights/poet"}, {"name": "poet"}]


async def test_a_control_call_that_fails_says_what_the_engine_said(
    machine: FakeMachine, script: Script
) -> None:
    script.routes, script.refused = CONTROL - {"/sleep"}, frozenset({"/sleep"})
    engine = make_engine(machine, naps=NAPS)
    await engine.start(deadline_ms=DEADLINE_MS)
    with pytest.raises(EngineFailed, match=r"answered /sleep.*500.*out of order"):
        await engine.suspend(Sleep.LIGHT)
    assert (await engine.stats()).ready
