"""Sends the outbox to the ledger until it knows every receipt.

A receipt that was vouched for, and that its gateway has not asked us to seal, is sealed here: many
under one signature.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Sign
from penstock.kit.tasks import Backoff
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.market import CLAIMS_MAX, Call, Verdict, claim
from penstock.miner.outbox import Outbox
from penstock.miner.sealing import Sealing
from penstock.miner.statement import seal_all
from penstock.miner.store import Claim
from penstock.spec.params import Params

SYNC_EVERY_MS = 1_000
MALFORMED = frozenset({400, 413, 422})
BATCHES_MAX = 64
"""In one go; a long backlog is worked off over several."""

_log = events("miner")


@dataclass(slots=True)
class Claims:
    """The loop between outbox and ledger. `ledger_url` gives "" until the market has named it."""

    sealing: Sealing
    key: Sign
    client: Call
    clock: Clock
    params: Params
    metrics: Metrics
    ledger_url: Callable[[], str]
    deadline_ms: int
    why: str = ""

    @property
    def outbox(self) -> Outbox:
        """What is claimed."""
        return self.sealing.outbox

    async def run(self) -> None:
        """Ask and sync for ever, with a bounded wait when the ledger is down."""
        backoff = Backoff(delay_ms_min=SYNC_EVERY_MS, delay_ms_max=60_000, steady_ms=SYNC_EVERY_MS)
        misses = 0
        while True:
            await self.outbox.sync()
            misses = 0 if await self.send() else misses + 1
            await asyncio.sleep(backoff.delay_ms(max(misses, 1)) / 1000)

    async def send(self, *, everything: bool = False) -> bool:
        """Ask about what is due (or about everything, before the end); did the ledger answer?"""
        url = self.ledger_url()
        if not url:
            return not len(self.outbox)
        now_ms = self.clock.now_ms() + (self.params.claim_grace_ms if everything else 0)
        for _ in range(BATCHES_MAX):
            batch = self.outbox.due(now_ms=now_ms, claims_max=CLAIMS_MAX)
            if not batch:
                return True
            try:
                verdicts = await self._ask(url, batch)
            except (PeerDown, PeerRefused) as error:
                self._postpone(batch, now_ms + self.sealing.settle_ms)
                self._say(str(error))
                return False
            self._apply(batch, verdicts, now_ms=now_ms)
            self._say("")
        return True

    async def _ask(self, url: str, batch: list[Claim]) -> list[Verdict]:
        """The ledger's word on a batch. When it refuses the batch as malformed, halves are asked
        until the one claim that it does not take is found: that one counts as rejected.

        Raises PeerDown, PeerRefused.
        """
        seal_all([one.receipt for one in batch], self.key)
        try:
            return await claim(self.client, url, batch, deadline_ms=self.deadline_ms)
        except PeerRefused as error:
            if error.status not in MALFORMED:
                raise
            if len(batch) == 1:
                return [Verdict(order_id=batch[0].order_id, state="rejected")]
        half = len(batch) // 2
        return [*await self._ask(url, batch[:half]), *await self._ask(url, batch[half:])]

    def _apply(self, batch: list[Claim], verdicts: list[Verdict], *, now_ms: int) -> None:
        """Settled ones go; the rest is asked about again when the grace is surely over."""
        states = {verdict.order_id: verdict for verdict in verdicts}
        for one in batch:
            verdict = states.get(one.order_id)
            if verdict is None or not verdict.is_settled:
                self.outbox.postpone(one.order_id, due_ms=now_ms + self.params.claim_grace_ms // 2)
                continue
            self.outbox.settle(one.order_id)
            self.sealing.forget(one.order_id)
            self.metrics.count("miner_claims_total", state=verdict.state)
            if verdict.state == "rejected":
                _log.warning("claim.rejected", order_id=one.order_id)

    def _postpone(self, batch: list[Claim], due_ms: int) -> None:
        for one in batch:
            self.outbox.postpone(one.order_id, due_ms=due_ms)

    def _say(self, why: str) -> None:
        if why and why != self.why:
            _log.warning("ledger.not_reached", why=why, claims=len(self.outbox))
        self.why = why
