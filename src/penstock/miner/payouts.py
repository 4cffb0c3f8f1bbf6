"""Payouts of settled epochs, as the ledger publishes them: what this miner's score brought.

Each epoch is asked for once, in their order. An epoch whose outcome is not there (no longer, or not
yet) is tried again a few times and then left: the books at the ledger are what counts.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.log import events
from penstock.miner.earnings import Earnings
from penstock.miner.errors import PeerDown, PeerRefused
from penstock.miner.market import Call, ask
from penstock.miner.timing import MarketTime
from penstock.spec.canon import from_plain
from penstock.spec.entries import EntryKind, parse_leaf
from penstock.spec.errors import SpecError
from penstock.spec.messages import Settlement

LOOK_MS = 30_000
BEHIND_EPOCHS_MAX = 200
"""A miner that was away longer starts so far back: older payouts are in the ledger's books alone."""
OUTCOME_BYTES_MAX = 64 << 20
ENTRIES_MAX = 100_000

_log = events("miner")


@dataclass(slots=True)
class Payouts:
    """Follows the ledger's settlements for one identity."""

    client: Call
    ledger_url: Callable[[], str]
    identity: str
    earnings: Earnings
    time: MarketTime
    deadline_ms: int

    async def run(self) -> None:
        """Look for ever. A ledger that is away is asked again."""
        while True:
            try:
                await self.look()
            except (PeerDown, PeerRefused) as error:
                _log.info("payouts.not_read", why=str(error))
            await asyncio.sleep(LOOK_MS / 1000)

    async def look(self) -> None:
        """Take in what was settled since. Raises PeerDown, PeerRefused."""
        url = self.ledger_url()
        if not url:
            return
        said = (await self._get(f"{url.rstrip('/')}/v1/epochs")).get("settled")
        settled = said if type(said) is int else -1
        first = max(self.earnings.settled + 1, settled - BEHIND_EPOCHS_MAX, 0)
        if self.earnings.settled < 0:
            first = max(settled, 0)  # a first life earned nothing before it
        for epoch in range(first, settled + 1):
            amount = await self._payout(url, epoch)
            self.earnings.paid(epoch, amount, at_ms=self.time.now_ms())

    async def _payout(self, url: str, epoch: int) -> int:
        """What the settlement of this epoch gives us; 0 where it was not published."""
        try:
            outcome = await self._get(f"{url.rstrip('/')}/files/epochs/{epoch:08d}/outcome.json")
        except PeerRefused as error:
            if error.status == 404:
                return 0
            raise
        return payout_in(outcome, self.identity)

    async def _get(self, url: str) -> dict[str, Any]:
        return await ask(
            self.client, "ledger", ("GET", url), body=b"", deadline_ms=self.deadline_ms
        )


def payout_in(outcome: dict[str, Any], identity: str) -> int:
    """The amount that the settlement in this published outcome names for `identity`, 0 for none."""
    settlement = settlement_in(outcome)
    if settlement is None:
        return 0
    return sum(one.amount_nano for one in settlement.payouts if one.identity == identity)


def settlement_in(outcome: dict[str, Any]) -> Settlement | None:
    """The settlement among the entries of an outcome; None where there is none that can be read."""
    entries = outcome.get("entries")
    for listed in entries[:ENTRIES_MAX] if isinstance(entries, list) else ():
        leaf = listed.get("leaf") if isinstance(listed, dict) else None
        if not isinstance(leaf, str):
            continue
        try:
            entry = parse_leaf(base64.b64decode(leaf, validate=True))
            if entry.kind is EntryKind.SETTLEMENT:
                return from_plain(Settlement, entry.body.get("body"))
        except (SpecError, ValueError, msgspec.MsgspecError):
            continue
    return None
