"""The instances of this miner, each led through its life by the table of `spec/life.py`.

A step is written down, then done. An instance is offered only while its engine answers. When the engine
ends the offer is withdrawn at once, the requests in it fail by themselves (their connections break),
and a fresh engine is started after a wait that doubles each time. When the agent itself is killed the
engines go on, and its next life takes them over under their names (`recover`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.kit.engine import EngineFailed
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.tasks import Backoff, Scope
from penstock.miner.budget import Footprint, Memory, card_ppm, displaced
from penstock.miner.config import Deadlines
from penstock.miner.errors import EngineUnknown
from penstock.miner.instance import Instance, State, Wish
from penstock.miner.inventory import Inventory, Kept
from penstock.miner.launcher import Launcher
from penstock.spec.life import Action, Event, step
from penstock.spec.messages import Manifest

RESTARTS = Backoff(delay_ms_min=500, delay_ms_max=60_000, steady_ms=120_000)
SLEEPING_MAX = 8
"""Instances whose engines sleep: they hold the machine's memory instead of a card's."""

UP = (Event.START, Event.PULLED, Event.LOADED, Event.PASSED)
"""From a place to serving, when nothing fails."""

Work = Coroutine[Any, Any, str]

_log = events("miner")


@dataclass(slots=True)
class Fleet:
    """Instances by name. `suffix` makes names unique among miners: 8 hex of the miner's key.

    `withdraw` is called when an instance that was offered can no longer be.
    """

    miner_name: str
    suffix: str
    launcher: Launcher
    inventory: Inventory
    memory: Memory
    deadlines: Deadlines
    metrics: Metrics
    withdraw: Callable[[Instance], Awaitable[None]]
    instances: dict[str, Instance] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an instance becomes ready, so that it is offered at once."""
    is_closing: bool = False
    """The miner stops: engines that end are not started again, and nothing new is offered."""

    def find(self, name: str) -> Instance | None:
        """The instance of that name."""
        return self.instances.get(name)

    def recover(self, scope: Scope) -> None:
        """Go on with what the journal says that a former life had. Call it once, first."""
        for kept in self.inventory.open():
            back = self.inventory.note(kept.name, Event.RETURNED)
            if back.state is State.GONE:
                # Its engine, if it still runs, is nobody's: the caretaker ends it.
                self.launcher.weights.drop(kept.manifest, instance=kept.name)
                continue
            share = back.share
            if share is None or not self.memory.knows(share) or not self.memory.has_room(share):
                self.inventory.note(kept.name, Event.DRAIN)
                self.launcher.weights.drop(kept.manifest, instance=kept.name)
                _log.warning("instance.homeless", instance=kept.name, slots=share and share.slots)
                continue
            self._begin(scope, back)
            _log.info("instance.returned", instance=kept.name, was=kept.state.value)

    def footprint(self, chute: str, manifest: Manifest) -> Footprint:
        """What is known of the memory that an instance of this chute takes."""
        return Footprint(
            self.launcher.weights.size_bytes(manifest), self.inventory.measured_bytes.get(chute, 0)
        )

    def has_room(self, chute: str, manifest: Manifest) -> bool:
        """Would `add` find memory for it now?"""
        sleeping = self._sleeping(chute)
        if sleeping is not None and self.memory.has_room(sleeping.share):
            return True
        return self.memory.fitting(manifest, self.footprint(chute, manifest)) is not None

    def add(self, scope: Scope, chute: str, manifest: Manifest, *, auto: bool) -> Instance | None:
        """Start serving a chute, or wake the instance of it that sleeps; returns at once, None when
        there is no memory for it.
        """
        sleeping = self._sleeping(chute)
        if sleeping is not None and self.memory.has_room(sleeping.share):
            self.memory.reserve(sleeping.name, sleeping.share)
            sleeping.auto = auto
            sleeping.call(Wish.SERVE)
            return sleeping
        share = self.memory.fitting(manifest, self.footprint(chute, manifest))
        if share is None:
            return None
        added = self.inventory.add(
            chute, manifest, prefix=self.miner_name, suffix=self.suffix, auto=auto
        )
        kept = self.inventory.note(added.name, Event.PLACE, share=share)
        _log.info("instance.added", instance=kept.name, chute_name=manifest.name, auto=auto)
        return self._begin(scope, kept)

    def make_room(self, chute: str, manifest: Manifest) -> bool:
        """Set instances aside that nobody asked for by name, until this one will fit; False when that
        would not be enough. Their memory is free once their requests have ended.
        """
        movable = sorted(
            (one for one in self.instances.values() if one.auto and one.wish is Wish.SERVE),
            key=lambda one: one.idle_first,
        )
        leaving = {name for name, one in self.instances.items() if one.wish is not Wish.SERVE}
        going = displaced(
            manifest,
            self.footprint(chute, manifest),
            slots=self.memory.slots,
            shares={
                name: share for name, share in self.memory.shares.items() if name not in leaving
            },
            movable=tuple(one.name for one in movable),
        )
        for name in going or ():
            self.set_aside(name)
        return going is not None

    def set_aside(self, name: str) -> None:
        """Free an instance's memory: its engine sleeps where it can, else the instance leaves."""
        instance = self.instances[name]
        asleep = sum(
            one.state is State.SUSPENDED or one.wish is Wish.SLEEP
            for one in self.instances.values()
        )
        can_sleep = instance.is_open and self.launcher.can_sleep(instance)
        instance.call(Wish.SLEEP if can_sleep and asleep < SLEEPING_MAX else Wish.LEAVE)

    def drain(self, name: str) -> None:
        """Let an instance go: no new requests, running ones end, then its engine stops."""
        self.instances[name].call(Wish.LEAVE)

    def close(self) -> None:
        """Take no more requests anywhere. The engines go on until `stop`, for what still runs."""
        self.is_closing = True
        for instance in self.instances.values():
            instance.is_closing = True

    async def wait_idle(self) -> None:
        """Until no request runs anywhere; the caller sets the deadline."""
        for instance in list(self.instances.values()):
            await instance.wait_idle()

    async def stop(self) -> None:
        """Stop all engines. Requests have ended or are given up. The journal keeps the instances: a
        later life starts them again.
        """
        async with Scope() as scope:
            for instance in list(self.instances.values()):
                scope.start(f"stop {instance.name}", self.launcher.stop(instance))

    def _begin(self, scope: Scope, kept: Kept) -> Instance:
        assert kept.share is not None, "it was placed"
        slots = self.memory.of(kept.share)
        instance = Instance(
            name=kept.name,
            chute=kept.chute,
            manifest=kept.manifest,
            auto=kept.auto,
            share=kept.share,
            card_ppm=card_ppm(kept.share, slots[0]),
            hardware=slots[0].kind,
            device="+".join(sorted({slot.device for slot in slots})),
            is_closing=self.is_closing,
        )
        self.memory.reserve(instance.name, instance.share)
        self.instances[instance.name] = instance
        scope.supervise(f"instance {instance.name}", lambda: self._live(instance))
        return instance

    async def _live(self, instance: Instance) -> None:
        """One instance from its first step to its last, or until the agent ends."""
        while instance.state is not State.GONE:
            if self.is_closing and instance.state is not State.SERVING:
                return
            match instance.state:
                case State.PLACED:
                    await self._rise(instance)
                case State.SERVING:
                    await self._serve(instance)
                case State.SUSPENDED:
                    await self._sleep(instance)
                case State.FAILED:
                    await self._rest(instance)
                case State.DRAINING:
                    await self._advance(instance, Event.QUIET)
                case _:
                    # A former run of this task was cut short by a bug of ours.
                    await self._advance(instance, Event.BROKE)
        self.instances.pop(instance.name, None)
        self.launcher.weights.drop(instance.manifest, instance=instance.name)
        _log.info("instance.removed", instance=instance.name)

    async def _rise(self, instance: Instance) -> None:
        """From its place to serving, unless it is called away or something fails."""
        if instance.wish is Wish.LEAVE:
            await self._advance(instance, Event.DRAIN)
            return
        instance.called.clear()
        why = await self._unless_called(instance, self._climb(instance, UP))
        if why is None:
            await self._advance(instance, Event.DRAIN)
        elif why:
            await self._fail(instance, why)

    async def _climb(self, instance: Instance, up: tuple[Event, ...]) -> str:
        """Step by step; why it failed, "" when it did not."""
        try:
            for event in up:
                await self._advance(instance, event)
        except (EngineFailed, EngineUnknown, TimeoutError) as error:
            return str(error) or "its engine did not start in time"
        return ""

    async def _serve(self, instance: Instance) -> None:
        """Until its engine ends or it is called away."""
        started = asyncio.get_running_loop().time()
        why = await self._unless_called(instance, self.launcher.wait_exit(instance))
        if why is not None:
            served_ms = (asyncio.get_running_loop().time() - started) * 1000
            if served_ms >= RESTARTS.steady_ms:
                instance.failures = 0
            await self._fail(instance, why)
        elif instance.wish is Wish.SLEEP:
            instance.called.clear()
            try:
                await self._advance(instance, Event.SUSPEND)
            except (EngineFailed, TimeoutError) as error:
                await self._fail(instance, str(error))
        else:
            assert instance.wish is Wish.LEAVE, "only who sleeps is called back"
            await self._advance(instance, Event.DRAIN)

    async def _sleep(self, instance: Instance) -> None:
        """Until it is called, or its engine ends."""
        if instance.wish is Wish.SLEEP:
            ended = await self._unless_called(instance, self.launcher.wait_exit(instance))
            if ended is not None:
                await self._fail(instance, ended)
                return
        instance.called.clear()
        if instance.wish is Wish.SERVE:
            why = await self._climb(instance, (Event.RESUME, Event.PASSED))
            if why:
                await self._fail(instance, why)
        else:
            await self._advance(instance, Event.DRAIN)

    async def _rest(self, instance: Instance) -> None:
        """The wait after a failure."""
        if instance.wish is Wish.SERVE:
            await _wait(instance.called, RESTARTS.delay_ms(max(instance.failures, 1)))
        if instance.wish is Wish.SERVE:
            await self._advance(instance, Event.RETRY)
        else:
            # What failed and is to sleep would only fail again: it leaves.
            instance.call(Wish.LEAVE)
            await self._advance(instance, Event.DRAIN)

    async def _fail(self, instance: Instance, why: str) -> None:
        instance.why = why
        instance.failures += 1
        self.metrics.count("miner_engine_ends_total", chute_name=instance.manifest.name)
        _log.warning("instance.down", instance=instance.name, why=why)
        await self._advance(instance, Event.BROKE)

    async def _advance(self, instance: Instance, event: Event) -> None:
        """One step of the law: written down, then done. Raises what its actions raise."""
        found = step(instance.state, event)
        self.inventory.note(instance.name, event)
        instance.state = found.state
        for action in found.actions:
            await self._do(instance, action)

    async def _do(self, instance: Instance, action: Action) -> None:
        """Raises EngineFailed, EngineUnknown, TimeoutError from what brings it up or to sleep."""
        launcher = self.launcher
        doing: Mapping[Action, Callable[[Instance], Awaitable[None]]] = {
            Action.PULL: launcher.pull,
            Action.LAUNCH: launcher.launch,
            Action.PROBE: self._probe,
            Action.OFFER: self._show,
            Action.WITHDRAW: self.withdraw,
            Action.FINISH: self._finish,
            Action.SLEEP: launcher.suspend,
            Action.WAKE: launcher.resume,
            Action.STOP: launcher.stop,
        }
        if action is Action.RESERVE:
            self.memory.reserve(instance.name, instance.share)
        elif action is Action.RELEASE:
            self.memory.release(instance.name)
        elif action is not Action.WAIT:  # `_rest` waits, where a call can be heard
            await doing[action](instance)

    async def _probe(self, instance: Instance) -> None:
        """Raises EngineFailed, TimeoutError."""
        self.inventory.measure(instance.chute, await self.launcher.probe(instance))

    async def _show(self, instance: Instance) -> None:
        """Have it offered at once."""
        instance.why = ""
        _log.info("instance.ready", instance=instance.name)
        self.changed.set()

    async def _finish(self, instance: Instance) -> None:
        """Let running requests end, within the deadline."""
        try:
            async with asyncio.timeout(self.deadlines.drain_ms / 1000):
                await instance.wait_idle()
        except TimeoutError:
            _log.warning("instance.cut", instance=instance.name, running=instance.running)

    async def _unless_called(self, instance: Instance, work: Work) -> str | None:
        """What the work says at its end; None when the instance is called first: then it is given up."""
        async with Scope() as scope:
            done = scope.start("work", work)
            called = scope.start("called", instance.called.wait())
            await asyncio.wait({done, called}, return_when=asyncio.FIRST_COMPLETED)
            said = done.result() if done.done() and not done.cancelled() else None
            scope.cancel()
        return said

    def _sleeping(self, chute: str) -> Instance | None:
        """An instance of the chute whose engine sleeps, not only is on its way to, and is not called."""
        for one in self.instances.values():
            is_asleep = one.state is State.SUSPENDED and one.name not in self.memory.shares
            if one.chute == chute and is_asleep and one.wish is Wish.SLEEP:
                return one
        return None


async def _wait(event: asyncio.Event, delay_ms: int) -> None:
    """Until the event or for so long, whichever is first."""
    try:
        async with asyncio.timeout(delay_ms / 1000):
            await event.wait()
    except TimeoutError:
        pass  # The wait is over, which is what the caller wanted to know.
