"""Probing, epoch after epoch: a plan at its start, questions at random moments, findings kept."""

import asyncio
import random
from dataclasses import dataclass, field

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, DiskFull, Verify
from penstock.spec.params import Params
from penstock.validator.config import Bounds
from penstock.validator.errors import PeerDown, PeerRefused
from penstock.validator.peers import Market
from penstock.validator.policy import Probe, plan_probes
from penstock.validator.probe import Asking, Finding, Found
from penstock.validator.store import Exhibit, Notebook

LATE_EPOCHS = 2
"""A record may be logged this many epochs after its probe: claims come late."""
CATALOGUE_TRIES_PER_EPOCH = 12

_log = events("validator")


@dataclass(slots=True)
class Awaited:
    """Probes whose records must turn up in the log."""

    awaited_max: int
    missing: int = 0
    _epochs: dict[str, int] = field(default_factory=dict)

    def expect(self, order_id: str, epoch: int) -> None:
        """The oldest are given up when there are too many."""
        self._epochs[order_id] = epoch
        if len(self._epochs) > self.awaited_max:
            del self._epochs[next(iter(self._epochs))]

    def found(self, order_id: str) -> None:
        """Its record was read in the log."""
        self._epochs.pop(order_id, None)

    def give_up(self, closed_epoch: int) -> list[str]:
        """All epochs up to this one were read: what should have been there and was not."""
        overdue = [
            order_id
            for order_id, epoch in self._epochs.items()
            if epoch + LATE_EPOCHS <= closed_epoch
        ]
        for order_id in overdue:
            del self._epochs[order_id]
        self.missing += len(overdue)
        return overdue

    @property
    def count(self) -> int:
        return len(self._epochs)


@dataclass(slots=True)
class Rounds:
    """Runs for ever. `is_unpaid` says that the gateway wants money the account does not have."""

    clock: Clock
    rng: random.Random
    params: Params
    market: Market
    asking: Asking
    verify: Verify
    bounds: Bounds
    notebook: Notebook
    awaited: Awaited
    metrics: Metrics
    is_unpaid: bool = False
    counts: dict[Found, int] = field(default_factory=lambda: dict.fromkeys(Found, 0))

    async def run(self) -> None:
        """One round an epoch, beginning with what is left of this one."""
        while True:
            epoch_ms = self.params.epoch_ms
            now_ms = self.clock.now_ms()
            end_ms = (now_ms // epoch_ms + 1) * epoch_ms
            await self._round(span_ms=end_ms - now_ms)
            await asyncio.sleep(max(0, end_ms - self.clock.now_ms()) / 1000)

    async def _round(self, *, span_ms: int) -> None:
        """Ask at the moments of a plan. Gives up an unpaid round at once: no money will come in it."""
        share = self.bounds.probes_per_epoch_max * span_ms / self.params.epoch_ms
        plan = await self._plan(count=round(share), span_ms=span_ms)
        self.is_unpaid = False
        room = asyncio.Semaphore(self.bounds.probes_parallel_max)
        begun_ms = self.clock.now_ms()
        async with asyncio.TaskGroup() as group:
            for probe in plan:
                wait_ms = begun_ms + probe.after_ms - self.clock.now_ms()
                await asyncio.sleep(max(0, wait_ms) / 1000)
                if self.is_unpaid:
                    return
                await room.acquire()
                task = group.create_task(self._probe(probe))
                task.add_done_callback(lambda _: room.release())

    async def _plan(self, *, count: int, span_ms: int) -> list[Probe]:
        """Wait within the span for a catalogue with something to probe in it."""
        pause_ms = self.params.epoch_ms // CATALOGUE_TRIES_PER_EPOCH
        left_ms = span_ms
        while count and left_ms > pause_ms:
            try:
                chutes = await self.market.probeable(self.verify)
            except (PeerDown, PeerRefused) as error:
                _log.warning("catalogue.away", reason=str(error))
                chutes = ()
            if chutes:
                # The last answers should come before the epoch ends, most of the time.
                return plan_probes(self.rng, chutes, count=count, span_ms=left_ms - pause_ms)
            await asyncio.sleep(pause_ms / 1000)
            left_ms -= pause_ms
        return []

    async def _probe(self, probe: Probe) -> None:
        epoch = self.clock.now_ms() // self.params.epoch_ms
        finding = await self.asking.ask(probe)
        self.counts[finding.found] += 1
        self.metrics.count("validator_probes_total", found=finding.found.value)
        if finding.found in {Found.GOOD, Found.LIED}:
            self.awaited.expect(finding.order_id, epoch)
        if finding.found is Found.UNPAID:
            self.is_unpaid = True
            _log.error("probe.unpaid", remedy="put money into this validator's account")
        elif finding.found in {Found.BAD, Found.UNSIGNED, Found.LIED}:
            _log.warning(
                "probe.dishonest",
                found=finding.found.value,
                order_id=finding.order_id,
                miner=finding.miner,
                reason=finding.reason,
            )
        if finding.transcript:
            self._keep(finding, epoch)

    def _keep(self, finding: Finding, epoch: int) -> None:
        exhibit = Exhibit(finding.order_id, finding.miner, epoch, finding.transcript)
        try:
            is_kept = self.notebook.keep_exhibit(exhibit)
        except DiskFull:
            is_kept = False
        if not is_kept:
            self.metrics.count("validator_exhibits_lost_total")
            _log.error("exhibit.lost", order_id=finding.order_id, reason="no room for it")
