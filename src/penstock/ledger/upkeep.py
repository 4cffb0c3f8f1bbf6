"""What happens by itself as time goes on: leases expire, epochs close, are published and settled.

Each step is remembered in the store when it is done, so after a crash or a full disk the work goes
on where it stood, oldest epoch first.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, DiskFull, Files, StoreDown
from penstock.ledger.consumer import Consumer
from penstock.ledger.leases import expired_before_ms
from penstock.ledger.notary import Notary
from penstock.ledger.policy import Draft
from penstock.ledger.ports import LogKey, Store
from penstock.ledger.publisher import Publisher
from penstock.ledger.settle import is_due, report_prefix, settlement_of
from penstock.ledger.state import EpochState, Logged, Wanted
from penstock.ledger.writer import Writer
from penstock.spec.books import POOL
from penstock.spec.canon import to_plain
from penstock.spec.entries import EntryKind
from penstock.spec.keys import sign
from penstock.spec.messages import Charter

TICK_MS_MAX = 500
TICKS_PER_EPOCH = 60
EPOCHS_PER_STEP_MAX = 256

CharterAt = Callable[[int], Charter]
"""seq -> the newest charter logged before this entry."""

_log = events("ledger")


@dataclass
class Upkeep:
    """Call `step` as often as you like; it does what is due now."""

    store: Store
    writer: Writer
    files: Files
    key: LogKey
    clock: Clock
    metrics: Metrics
    consumer: Consumer
    notary: Notary
    charter_at: CharterAt
    about: dict[str, str]
    """What `operator.json` says."""
    is_disk_full: bool = False
    unpublished: int = 0
    _is_about_written: bool = False
    _publisher: Publisher = field(init=False)

    def __post_init__(self) -> None:
        self._publisher = Publisher(files=self.files, log=self.store, notary=self.notary)

    async def run(self) -> None:
        """Until cancelled."""
        tick_ms = min(TICK_MS_MAX, self.writer.params.epoch_ms // TICKS_PER_EPOCH)
        while True:
            try:
                await self.step()
            except StoreDown as error:
                # No crash: what is due stays due, and the next tick does it.
                _log.warning("store.down", why=str(error))
                self.metrics.count("ledger_store_down_total")
            await asyncio.sleep(tick_ms / 1000)

    async def step(self) -> None:
        """Everything that is due. Raises StoreDown; a full disk is remembered, not raised."""
        await self._release_expired()
        await self._close_epoch()
        await self._finish_epochs()

    async def _release_expired(self) -> None:
        due_ms = expired_before_ms(
            now_ms=self.clock.now_ms(),
            quiet_ms=self.consumer.quiet_ms,
            grace_ms=self.writer.params.claim_grace_ms,
        )
        if due_ms < 0:
            return

        def decide(draft: Draft) -> int:
            expired = [one for one in draft.leases() if one.is_open and one.expires_ms <= due_ms]
            for lease in expired:
                draft.close_lease(lease)
            return len(expired)

        released = await self.writer.decide(Wanted(leases_due_ms=due_ms), decide)
        self.metrics.count("ledger_leases_expired_total", released)

    async def _close_epoch(self) -> None:
        params = self.writer.params

        def decide(draft: Draft) -> EpochState | None:
            now_ms = self.clock.now_ms()
            draft.open_first_epoch(now_ms // params.epoch_ms)
            assert draft.epoch is not None
            end_ms = (draft.epoch.epoch + 1) * params.epoch_ms
            if draft.view.epoch is None or now_ms < end_ms + params.close_grace_ms:
                return None
            return draft.close_epoch(now_ms)

        closed = await self.writer.decide(Wanted(), decide)
        if closed is not None:
            _log.info("epoch.closed", epoch=closed.epoch, pool_nano=closed.pool_nano)

    async def _finish_epochs(self) -> None:
        states = await self.store.unfinished(count=EPOCHS_PER_STEP_MAX)
        self.unpublished = sum(state.published_ms < 0 for state in states)
        self.metrics.gauge("ledger_epochs_unpublished", self.unpublished)
        try:
            if not self._is_about_written:
                self._publisher.write_operator(self.about)
                self._is_about_written = True
            await self._finish_in_order(states)
            self.is_disk_full = False
        except DiskFull as error:
            if not self.is_disk_full:
                _log.error("disk.full", file=str(error), unpublished=self.unpublished)
            self.is_disk_full = True
        self.metrics.gauge("ledger_disk_full", int(self.is_disk_full))

    async def _finish_in_order(self, states: list[EpochState]) -> None:
        """Publish all that is closed; settle in order, each when its reports are in."""
        may_settle = True
        for found in states:
            state = found
            if state.published_ms < 0:
                await self._publisher.publish(state)
                state = replace(state, published_ms=self.clock.now_ms())
                await self._remember(state)
                self.unpublished -= 1
                _log.info("epoch.published", epoch=state.epoch)
            if may_settle and state.settled_seq < 0:
                state = await self._settle(state)
            may_settle = may_settle and state.settled_seq >= 0
            if state.settled_seq >= 0:
                await self._publish_outcome(state)
                await self._remember(replace(state, is_done=True))
                _log.info("epoch.settled", epoch=state.epoch, pool_nano=state.pool_nano)

    async def _remember(self, state: EpochState) -> None:
        await self.writer.decide(Wanted(), lambda draft: draft.set_epoch(state))

    def _reports_wanted(self, state: EpochState) -> Wanted:
        prefix = report_prefix(state.epoch)
        seats = self.charter_at(state.close_seq).seats
        return Wanted(
            entries=tuple((EntryKind.REPORT, prefix + one.validator) for one in seats),
            accounts=(POOL,),
        )

    async def _settle(self, state: EpochState) -> EpochState:
        """The state after settling, or as it was while reports are awaited."""
        params, charter = self.writer.params, self.charter_at(state.close_seq)

        def decide(draft: Draft) -> EpochState:
            reports = sorted(draft.view.entries.values(), key=_seq)
            now_ms = self.clock.now_ms()
            if not is_due(state, reports, charter=charter, params=params, now_ms=now_ms):
                return state
            settlement = settlement_of(state, reports, charter=charter, params=params)
            signed = sign("settlement", settlement, self.key)
            return draft.settle(state, settlement, signed=to_plain(signed))

        return await self.writer.decide(self._reports_wanted(state), decide)

    async def _publish_outcome(self, state: EpochState) -> None:
        view = await self.writer.look(self._reports_wanted(state))
        settled = await self.store.entry((EntryKind.SETTLEMENT, f"settlement/{state.epoch}"))
        assert settled is not None, "a settled epoch has its entry"
        charters = await self.store.entries_under(
            EntryKind.CHARTER, prefix="", seq_max=state.close_seq
        )
        reports = [one for one in view.entries.values() if one.seq < settled.seq]
        entries: list[Logged] = [charters[-1], *sorted(reports, key=_seq), settled]
        await self._publisher.publish_outcome(state.epoch, entries, frontier=view.frontier)


def _seq(logged: Logged) -> int:
    return logged.seq
