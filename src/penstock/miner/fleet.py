"""The instances of this miner: started in the background, started again when they end, drained.

An instance is offered only while its engine answers. When the engine ends the offer is withdrawn at
once, the requests in it fail by themselves (their connections break), and a fresh engine is started
after a wait that doubles each time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from penstock.kit.engine import Engine, EngineFailed
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Backoff, Scope
from penstock.miner.config import Deadlines
from penstock.miner.errors import EngineUnknown
from penstock.miner.instance import Instance, State
from penstock.spec.messages import Manifest

Engines = Callable[[Manifest], Engine]
"""Builds the engine that a manifest names. Raises EngineUnknown, EngineFailed."""

RESTARTS = Backoff(delay_ms_min=500, delay_ms_max=60_000, steady_ms=120_000)

_log = events("miner")


@dataclass(slots=True)
class Fleet:
    """Instances by name. `suffix` makes names unique among miners: 8 hex of the miner's key.

    `withdraw` is called when an instance that was offered can no longer be.
    """

    miner_name: str
    suffix: str
    engines: Engines
    deadlines: Deadlines
    metrics: Metrics
    withdraw: Callable[[Instance], Awaitable[None]]
    instances: dict[str, Instance] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an instance becomes ready, so that it is offered at once."""
    is_closing: bool = False
    """The miner stops: engines that end are not started again, and nothing new is offered."""
    _count: int = 0

    def find(self, name: str) -> Instance | None:
        """The instance of that name."""
        return self.instances.get(name)

    def add(self, scope: Scope, chute: str, manifest: Manifest, *, auto: bool) -> Instance:
        """Start serving a chute; returns at once."""
        self._count += 1
        name = f"{self.miner_name}-{self._count}-{self.suffix}"
        instance = Instance(name=name, chute=chute, manifest=manifest, auto=auto)
        self.instances[name] = instance
        _log.info("instance.added", instance=name, chute_name=manifest.name, auto=auto)
        scope.supervise(f"instance {name}", lambda: self._live(instance))
        return instance

    def drain(self, name: str) -> None:
        """Let an instance go: no new requests, running ones end, then its engine stops."""
        self.instances[name].drain()

    def close(self) -> None:
        """Take no more requests anywhere. The engines go on until `stop`, for what still runs."""
        self.is_closing = True
        for instance in self.instances.values():
            instance.state = State.DRAINING

    async def wait_idle(self) -> None:
        """Until no request runs anywhere; the caller sets the deadline."""
        for instance in list(self.instances.values()):
            await instance.wait_idle()

    async def stop(self) -> None:
        """Stop all engines. Requests have ended or are given up."""
        async with Scope() as scope:
            for instance in list(self.instances.values()):
                scope.start(f"stop {instance.name}", self._stop_engine(instance))

    async def _live(self, instance: Instance) -> None:
        """One instance from its start to its drain."""
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while not self._is_leaving(instance):
                started = loop.time()
                await self._run_once(instance)
                if self._is_leaving(instance):
                    break
                steady = (loop.time() - started) * 1000 >= RESTARTS.steady_ms
                failures = 1 if steady else failures + 1
                self.metrics.count("miner_engine_ends_total", chute_name=instance.manifest.name)
                await _wait(instance.draining, RESTARTS.delay_ms(failures))
        finally:
            # A cancelled station stops its engines itself, after the running requests.
            if instance.draining.is_set():
                self.instances.pop(instance.name, None)

    async def _run_once(self, instance: Instance) -> None:
        """Start an engine, serve until it ends or the instance drains."""
        instance.state = State.STARTING
        try:
            engine = self.engines(instance.manifest)
            instance.engine = engine
            await engine.start(deadline_ms=self.deadlines.engine_start_ms)
        except (EngineFailed, EngineUnknown, TimeoutError) as error:
            self._down(instance, str(error))
            return
        if not self._is_leaving(instance):
            instance.state = State.READY
            instance.why = ""
            _log.info("instance.ready", instance=instance.name, address=engine.address)
            self.changed.set()
        why = await self._until_end(instance, engine)
        if instance.draining.is_set():
            await self._leave(instance)
        else:
            self._down(instance, why)
            await self.withdraw(instance)

    async def _until_end(self, instance: Instance, engine: Engine) -> str:
        """Wait for the engine's exit or the instance's drain; says why the engine ended."""
        async with Scope() as scope:
            ended = scope.start("exit", engine.wait_exit())
            drained = scope.start("drain", instance.draining.wait())
            await asyncio.wait({ended, drained}, return_when=asyncio.FIRST_COMPLETED)
            exit_ = ended.result() if ended.done() and not ended.cancelled() else None
            scope.cancel()
        return "" if exit_ is None else f"{exit_.reason} {exit_.remedy}".strip()

    async def _leave(self, instance: Instance) -> None:
        """Withdraw the offer, let running requests end, stop the engine."""
        await self.withdraw(instance)
        try:
            async with asyncio.timeout(self.deadlines.drain_ms / 1000):
                await instance.wait_idle()
        except TimeoutError:
            _log.warning("instance.cut", instance=instance.name, running=instance.running)
        await self._stop_engine(instance)
        _log.info("instance.removed", instance=instance.name)

    async def _stop_engine(self, instance: Instance) -> None:
        if instance.engine is not None:
            await instance.engine.stop(deadline_ms=self.deadlines.engine_stop_ms)

    def _is_leaving(self, instance: Instance) -> bool:
        return self.is_closing or instance.draining.is_set()

    def _down(self, instance: Instance, why: str) -> None:
        if not self._is_leaving(instance):
            instance.state = State.DOWN
        instance.why = why
        _log.warning("instance.down", instance=instance.name, why=why)


async def _wait(event: asyncio.Event, delay_ms: int) -> None:
    """Until the event or for so long, whichever is first."""
    try:
        async with asyncio.timeout(delay_ms / 1000):
            await event.wait()
    except TimeoutError:
        pass  # The wait is over, which is what the caller wanted to know.
