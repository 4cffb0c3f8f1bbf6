"""Receipts that the ledger may not know yet: kept until it says that it does.

Usually the gateway delivers the record within a second and the ledger answers `posted`. When the
gateway dies first, these are all that proves the miner's work, so they outlive the process.
Refusals and failures earn nothing and say nothing for us: they are not kept.

An order that came under a session is kept before it is proven: it is claimed once its gateway's seal
has come, and dropped if that never comes.
"""

import heapq
from dataclasses import dataclass, field

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import DiskFull
from penstock.miner.store import (
    Claim,
    OutboxStore,
    Proven,
    Settled,
    claim_line,
    proven_line,
    read_line,
    settled_line,
)

CLAIMS_MAX = 50_000
DEAD_LINES_MAX = 5_000
"""The journal is written anew when it holds this many lines that mean nothing any more."""
FULL_REMEDY = "free space on the disk of the miner's home folder"

_log = events("miner")


@dataclass(slots=True)
class Outbox:
    """Claims by order id. Call `open` once before anything else."""

    store: OutboxStore
    metrics: Metrics
    claims_max: int = CLAIMS_MAX
    dropped: int = 0
    _claims: dict[str, Claim] = field(default_factory=dict)
    _due: list[tuple[int, str]] = field(default_factory=list)
    _dead_lines: int = 0
    _is_dirty: bool = False
    _is_full: bool = False

    def open(self, *, now_ms: int) -> None:
        """Read what a former life left. Lines that cannot be read are counted and skipped."""
        bad = 0
        for line in self.store.load():
            match read_line(line):
                case Claim() as claim:
                    self._claims[claim.order_id] = claim
                case Proven(signatures):
                    self._sign(signatures)
                    self._dead_lines += 1
                case Settled(order_id):
                    self._claims.pop(order_id, None)
                    self._dead_lines += 2
                case None:
                    bad += 1
                    self._dead_lines += 1
        self._due = [(now_ms, one.order_id) for one in self._claims.values() if one.is_proven]
        if self._claims or bad:
            _log.info("outbox.opened", claims=len(self._claims), unreadable_lines=bad)
        self._measure()

    def __len__(self) -> int:
        return len(self._claims)

    def has(self, order_id: str) -> bool:
        """Is there a claim of this order?"""
        return order_id in self._claims

    def claims(self) -> list[Claim]:
        """All claims, oldest first."""
        return list(self._claims.values())

    @property
    def times_kept(self) -> int:
        """How many times to ask are remembered, those of dropped claims included."""
        return len(self._due)

    def put(self, claim: Claim, *, due_ms: int) -> None:
        """Keep a claim; once it is proven, ask about it from `due_ms` on. The oldest goes when there
        are too many.

        A full disk costs durability, not the claim: it stays in memory and the loss is logged once.
        """
        if len(self._claims) >= self.claims_max:
            oldest = next(iter(self._claims))
            del self._claims[oldest]
            self.dropped += 1
            self._dead_lines += 1
            self.metrics.count("miner_claims_dropped_total")
        self._claims[claim.order_id] = claim
        if claim.is_proven:
            self._push(claim.order_id, due_ms)
        self._append(claim_line(claim))
        self._measure()

    def prove(self, signatures: dict[str, str], *, due_ms: int) -> None:
        """The seals of orders came, by order id. Those that are kept can be claimed from now on."""
        kept = {one: text for one, text in signatures.items() if one in self._claims}
        if not kept:
            return
        self._sign(kept)
        for order_id in kept:
            self._push(order_id, due_ms)
        self._dead_lines += 1
        self._append(proven_line(kept))

    def due(self, *, now_ms: int, claims_max: int) -> list[Claim]:
        """Up to `claims_max` proven claims to ask about now; each comes back only by `postpone`."""
        found: list[Claim] = []
        while self._due and len(found) < claims_max and self._due[0][0] <= now_ms:
            _, order_id = heapq.heappop(self._due)
            claim = self._claims.get(order_id)
            if claim is not None:
                found.append(claim)
        return found

    def postpone(self, order_id: str, *, due_ms: int) -> None:
        """Ask again later."""
        if order_id in self._claims:
            heapq.heappush(self._due, (due_ms, order_id))

    def settle(self, order_id: str) -> None:
        """The ledger knows this order or refuses it for good, or it can never be proven."""
        if self._claims.pop(order_id, None) is not None:
            self._dead_lines += 2
            self._append(settled_line(order_id))
            self._measure()

    async def sync(self) -> None:
        """Make what was put survive a power cut, and keep the journal short."""
        if self._dead_lines > DEAD_LINES_MAX:
            self._compact()
        if self._is_dirty:
            self._is_dirty = False
            try:
                await self.store.sync()
            except DiskFull:
                self._say_full()

    @property
    def why(self) -> str:
        """What the operator must mend; "" while claims reach the disk."""
        if not self._is_full:
            return ""
        return f"claims are not kept over a restart: {FULL_REMEDY}"

    def _sign(self, signatures: dict[str, str]) -> None:
        for order_id, signature in signatures.items():
            claim = self._claims.get(order_id)
            if claim is not None:
                claim.order.signature = signature

    def _push(self, order_id: str, due_ms: int) -> None:
        heapq.heappush(self._due, (due_ms, order_id))
        if len(self._due) > 2 * self.claims_max:
            self._forget_dropped()

    def _forget_dropped(self) -> None:
        """While the ledger is away nothing falls due, and claims that were dropped pile up here."""
        self._due = [one for one in self._due if one[1] in self._claims]
        heapq.heapify(self._due)

    def _compact(self) -> None:
        try:
            self.store.replace([claim_line(claim) for claim in self._claims.values()])
        except DiskFull:
            self._say_full()
            return
        self._dead_lines = 0
        self._is_dirty = self._is_full = False

    def _append(self, line: bytes) -> None:
        try:
            self.store.append(line)
        except DiskFull:
            self._say_full()
            return
        self._is_dirty = True

    def _say_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            _log.error("outbox.disk_full", remedy=FULL_REMEDY)

    def _measure(self) -> None:
        self.metrics.gauge("miner_claims", len(self._claims))
