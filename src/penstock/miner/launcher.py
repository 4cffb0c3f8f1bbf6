"""What is done to an instance's engine: weights, launch, probe, sleep, stop.

The fleet says when, by the table of the law; here is how. Nothing here knows of offers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from penstock.kit.engine import Capability, Engine, EngineFailed, Sleep
from penstock.kit.log import events
from penstock.miner.budget import CARD_OVERHEAD_BYTES
from penstock.miner.config import Deadlines
from penstock.miner.instance import Instance, Launch
from penstock.miner.weights import Weights
from penstock.spec.messages import Modality

Engines = Callable[[Launch], Engine]
"""Builds the engine that a manifest names, for this instance. Raises EngineUnknown, EngineFailed."""

Readings = Callable[[], Awaitable[Mapping[str, int]]]
"""Card -> bytes in use now; a card that does not say is left out."""

SERVES: Mapping[Modality, frozenset[Capability]] = {
    Modality.CHAT: frozenset({Capability.CHAT, Capability.COMPLETIONS}),
    Modality.EMBEDDINGS: frozenset({Capability.EMBEDDINGS}),
    Modality.RERANK: frozenset({Capability.RERANK}),
    Modality.IMAGES: frozenset({Capability.IMAGES}),
    Modality.SPEECH: frozenset({Capability.SPEECH}),
    Modality.TRANSCRIPTION: frozenset({Capability.TRANSCRIPTION, Capability.TRANSLATION}),
    Modality.MODERATION: frozenset({Capability.MODERATION}),
}
"""Any one of these was seen by the probe, or the engine is none for the chute."""

_log = events("miner")


async def no_readings() -> Mapping[str, int]:
    """Of a machine whose cards do not tell, or that has none."""
    return {}


@dataclass(slots=True)
class Launcher:
    """Brings engines up and down. `readings` are what the cards' drivers say."""

    engines: Engines
    weights: Weights
    deadlines: Deadlines
    readings: Readings
    _before: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """By instance on its way up: what its cards held before. Nothing for one that was not alone."""

    async def pull(self, instance: Instance) -> None:
        """Its weights are here after this. Raises EngineFailed."""

        def say(words: str) -> None:
            instance.why = words

        await self.weights.pull(instance.manifest, instance=instance.name, say=say)

    async def launch(self, instance: Instance) -> None:
        """Its engine answers after this, or is the one that answered all the time: an engine outlives
        the agent. Raises EngineFailed, EngineUnknown, TimeoutError.
        """
        if instance.share.cards:
            self._before[instance.name] = await self.readings()
        engine = self.engines(instance.launch)
        instance.engine = engine
        await engine.start(deadline_ms=self.deadlines.engine_start_ms)

    async def probe(self, instance: Instance) -> int:
        """It can do what its chute is for, and answers now; the memory it takes, 0 if nobody can tell.

        Raises EngineFailed.
        """
        engine, modality = instance.engine, instance.manifest.modality
        assert engine is not None, "it was launched"
        if not engine.capabilities & SERVES[modality]:
            raise EngineFailed(
                reason=f"The engine answered no test request for {modality.value}.",
                log_tail="",
                remedy="Check that the chute's source is a model of that kind.",
            )
        async with asyncio.timeout(self.deadlines.engine_idle_ms / 1000):
            instance.looked(await engine.stats())
        return await self._measured(instance)

    async def wait_exit(self, instance: Instance) -> str:
        """Until its engine has ended; says why."""
        assert instance.engine is not None, "it was launched"
        exit_ = await instance.engine.wait_exit()
        return f"{exit_.reason} {exit_.remedy}".strip() or "its engine ended"

    def can_sleep(self, instance: Instance) -> bool:
        """Has its engine shown that it can?"""
        engine = instance.engine
        return engine is not None and Capability.SUSPEND in engine.capabilities

    async def suspend(self, instance: Instance) -> None:
        """Its memory is free after this. Raises EngineFailed, TimeoutError."""
        assert instance.engine is not None, "it was launched"
        async with asyncio.timeout(self.deadlines.engine_idle_ms / 1000):
            await instance.engine.suspend(Sleep.LIGHT)
        _log.info("instance.asleep", instance=instance.name)

    async def resume(self, instance: Instance) -> None:
        """It has its memory again after this. Raises EngineFailed, TimeoutError."""
        assert instance.engine is not None, "it was launched"
        async with asyncio.timeout(self.deadlines.engine_idle_ms / 1000):
            await instance.engine.resume()

    async def stop(self, instance: Instance) -> None:
        """End its engine, if it has one. Twice is harmless."""
        self._before.pop(instance.name, None)
        if instance.engine is not None:
            await instance.engine.stop(deadline_ms=self.deadlines.engine_stop_ms)

    async def _measured(self, instance: Instance) -> int:
        """How much more its cards hold than before it came; 0 where that says nothing: others came or
        went meanwhile, or the engine had been there before.
        """
        before = self._before.pop(instance.name, None)
        cards = instance.share.cards
        if before is None or self._before or not set(cards) <= before.keys():
            return 0
        after = await self.readings()
        grown = sum(after.get(card, 0) - before[card] for card in cards)
        weights = self.weights.size_bytes(instance.manifest)
        return grown if grown >= max(weights, CARD_OVERHEAD_BYTES) // 2 else 0
