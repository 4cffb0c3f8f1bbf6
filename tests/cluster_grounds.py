"""Grounds for the contract tests of runtimes that need a cluster: see tests/runtime_grounds.py."""

import atexit
import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.kube_plane import NAMESPACE, Plane, control_plane
from tests.runtime_grounds import Factory, ask, make_task

from penstock.adapters.runtimes.ray import RayConfig, RayRuntime
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import Runtime, Task

LOOK_MS = 50


@dataclass(slots=True)
class RayGround:
    """Its nodes are this machine, so that tasks are programs of it."""

    home: Path
    address: str
    orphan_ms: int
    opened: list[RayRuntime] = field(default_factory=list)

    async def agent(self) -> RayRuntime:
        for dead in self.opened:
            await dead.closed()
        config = RayConfig(self.address, orphan_ms=self.orphan_ms)
        runtime = await RayRuntime.open(self.home, config, clock=SystemClock(), entropy=os.urandom)
        self.opened.append(runtime)
        return runtime

    def task(self, mode: str, **fields: Any) -> Task:
        return make_task(mode, **fields)

    async def ask(self, address: str) -> dict[str, Any]:
        return await ask(address)


@asynccontextmanager
async def ray_ground(home: Path, orphan_ms: int) -> AsyncIterator[RayGround]:
    address = os.environ.get("PENSTOCK_TEST_RAY", "")
    if not address:
        pytest.skip("no Ray named in PENSTOCK_TEST_RAY: make test-clusters")
    ground = RayGround(home / "runtime", address, orphan_ms)
    try:
        yield ground
    finally:
        runtime = await ground.agent()
        for running in await runtime.list():
            await runtime.stop(running.name, deadline_ms=100)
        await runtime.closed()


@dataclass(slots=True)
class KubernetesGround:
    """Its node is this machine (tests/kube_node.py), so that tasks are programs of it."""

    home: Path
    kubeconfig: Path
    orphan_ms: int
    opened: list[Any] = field(default_factory=list)

    async def agent(self) -> Runtime:
        from penstock.adapters.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime

        for dead in self.opened:
            dead.close()
        config = KubernetesConfig(
            NAMESPACE, self.kubeconfig, orphan_ms=self.orphan_ms, look_ms=LOOK_MS
        )
        runtime = await KubernetesRuntime.open(
            self.home, config, clock=SystemClock(), entropy=os.urandom
        )
        self.opened.append(runtime)
        return runtime

    def task(self, mode: str, **fields: Any) -> Task:
        return make_task(mode, **{"image": "this-machine", **fields})

    async def ask(self, address: str) -> dict[str, Any]:
        return await ask(address)


@asynccontextmanager
async def kubernetes_ground(home: Path, orphan_ms: int) -> AsyncIterator[KubernetesGround]:
    ground = KubernetesGround(home / "runtime", started_plane().agent, orphan_ms)
    try:
        yield ground
    finally:
        runtime = await ground.agent()
        for running in await runtime.list():
            await runtime.stop(running.name, deadline_ms=0)
        for dead in ground.opened:
            dead.close()


@functools.cache
def started_plane() -> Plane:
    """One for all tests of this process; it takes ten seconds."""
    plane = control_plane()
    started = plane.__enter__()
    atexit.register(plane.__exit__, None, None, None)
    return started


CLUSTER_GROUNDS: dict[str, Factory] = {"ray": ray_ground, "kubernetes": kubernetes_ground}
