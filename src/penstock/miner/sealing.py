"""Orders taken under sessions, until both sides have what convinces a third party.

A gateway vouches for such an order at once and seals it, with others, a moment later; we answer with
a vouched receipt, and seal that when the gateway asks. First the order's seal, then the receipt's:
what we sign is worth money to the gateway's payer, so it must be worth money to us. A gateway that
leaves orders unsealed is trusted with fewer at a time, until it seals again.

A seal may overtake its order, whose body takes longer on the way: it is kept for a while (`Early`).

What earns is also in the outbox, from which a new life of this miner takes it up again (`adopt`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Sign, Verify
from penstock.miner.errors import SessionRefused
from penstock.miner.outbox import Outbox
from penstock.miner.statement import Statement, seal
from penstock.spec.seals import is_seal, seal_digest, seal_root, seal_signatures

UNSEALED_MIN = 8
"""So many unsealed orders at once are taken even of a gateway that has broken its word often."""
ASK_AGAIN_MS = 60_000
"""So long after both seals a gateway may ask again: the answer may not have reached it."""
SWEEP_EVERY_MS = 1_000
OLDEST_SEEN_MAX = 256
"""When there is no room, one of so many of the oldest must have ended, or the newest is refused."""

_log = events("miner")


@dataclass(frozen=True, slots=True)
class OrderSeals:
    """A gateway's seal over orders: ids and digests in the order of the leaves."""

    order_ids: Sequence[str]
    digests: Sequence[bytes]
    root_signature: str


@dataclass(frozen=True, slots=True)
class ReceiptSeals:
    """Our seal over receipts, in the order of the leaves. `unknown` are orders that are not here;
    what is in neither may be asked for again a little later.
    """

    order_ids: tuple[str, ...]
    root_signature: str
    unknown: tuple[str, ...]


@dataclass(slots=True)
class Taken:
    """One order. It is forgotten after `until_ms` (monotonic: the market's time is set now and then);
    `is_old` is one of a former life.
    """

    order_id: str
    order: Statement
    until_ms: int
    receipt: Statement | None = None
    is_receipt_given: bool = False
    is_old: bool = False

    @property
    def is_done(self) -> bool:
        """Have both sides what they need?"""
        return self.order.is_signed and self.is_receipt_given


@dataclass(frozen=True, slots=True)
class Early:
    """The seal of an order that is not here yet, kept until then."""

    signature: str
    until_ms: int


@dataclass(slots=True)
class Standing:
    """What a gateway owes: orders that wait for its seal, and those for which none ever came."""

    unsealed: int = 0
    broken: int = 0


@dataclass(slots=True)
class Sealing:
    """The table of orders taken under sessions."""

    key: Sign
    verify: Verify
    outbox: Outbox
    time: Clock
    metrics: Metrics
    taken_max: int
    unsealed_max: int
    seal_ms: int
    """How long after its deadline an order may still be sealed."""
    settle_ms: int
    _taken: dict[str, Taken] = field(default_factory=dict)
    _standings: dict[str, Standing] = field(default_factory=dict)
    _early: dict[str, dict[bytes, Early]] = field(default_factory=dict)
    """By gateway, then by the order's digest; at most `unsealed_max` of one gateway."""
    _undone: set[str] = field(default_factory=set)
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def unsealed(self) -> int:
        """Orders of this life that wait for their gateway's seal."""
        return sum(one.unsealed for one in self._standings.values())

    def adopt(self) -> None:
        """Take up what a former life left in the outbox. Its gateways owe nothing for our absence."""
        until_ms = self._mono_ms() + self.seal_ms
        for claim in self.outbox.claims()[-self.taken_max :]:
            taken = Taken(claim.order_id, claim.order, until_ms, claim.receipt, is_old=True)
            self._taken[claim.order_id] = taken

    def knows(self, order_id: str) -> bool:
        """Is there an order of this id that may still earn? Another one must not take its place."""
        return order_id in self._taken or self.outbox.has(order_id)

    def has_room(self, gateway: str) -> bool:
        """May one more unsealed order of this gateway be taken?"""
        standing = self._standings.get(gateway)
        if standing is not None:
            trusted = max(self.unsealed_max - standing.broken, UNSEALED_MIN)
            if standing.unsealed >= trusted:
                return False
        return len(self._taken) < self.taken_max or self._drop_oldest()

    def take(self, order_id: str, order: Statement, *, deadline_ms: int) -> None:
        """An order comes in. The caller has asked `has_room`."""
        left_ms = deadline_ms - self.time.now_ms()
        self._taken[order_id] = Taken(order_id, order, self._mono_ms() + left_ms + self.seal_ms)
        early = self._early.get(order.signer, {}).pop(order.digest, None)
        if early is None:
            self._standings.setdefault(order.signer, Standing()).unsealed += 1
        else:
            order.signature = early.signature
        self._undone.add(order_id)
        self._quiet.clear()

    def close(self, order_id: str, receipt: Statement) -> bool:
        """The order has ended with this receipt, which now waits to be asked for. False if the order
        was forgotten meanwhile, so that its seal can come no more.
        """
        taken = self._taken.get(order_id)
        if taken is not None:
            taken.receipt = receipt
        return taken is not None

    def take_seals(self, gateway: str, seals: OrderSeals) -> int:
        """How many of these orders are proven now. The same seal again changes nothing.

        An order of another gateway, or one that was other bytes here, stays as it is. Raises
        SessionRefused when the seal itself does not hold; nothing changes then.
        """
        root, size = seal_root(seals.digests), len(seals.digests)
        if is_seal(seals.root_signature) or not self.verify(
            gateway, seal_digest(root, size), seals.root_signature
        ):
            raise SessionRefused(400, "bad_seal", "The gateway's signature of the root is wrong.")
        signatures = seal_signatures(seals.digests, seals.root_signature)
        fresh: dict[str, str] = {}
        known = 0
        for order_id, digest, signature in zip(
            seals.order_ids, seals.digests, signatures, strict=True
        ):
            taken = self._of(gateway, order_id)
            if taken is None:
                self._keep_early(gateway, digest, signature)
            if taken is None or taken.order.digest != digest:
                continue
            known += 1
            if not taken.order.is_signed:
                fresh[order_id] = signature
                self._prove(taken, signature)
        self.outbox.prove(fresh, due_ms=self.time.now_ms() + self.settle_ms)
        return known

    def give_seals(self, gateway: str, order_ids: Sequence[str]) -> ReceiptSeals:
        """Our seal over those receipts of this gateway whose orders it has sealed. For one whose
        order's seal is not here yet, and may be on its way, nothing is said.
        """
        found: dict[str, Statement] = {}
        unknown: list[str] = []
        for order_id in dict.fromkeys(order_ids):
            taken = self._of(gateway, order_id)
            if taken is None:
                unknown.append(order_id)
            elif taken.receipt is not None and taken.order.is_signed:
                found[order_id] = taken.receipt
                taken.is_receipt_given = True
                self._rest(taken)
        root_signature = seal(list(found.values()), self.key) if found else ""
        return ReceiptSeals(tuple(found), root_signature, tuple(unknown))

    def forget(self, order_id: str) -> None:
        """The ledger knows the order: nobody will ask about it any more."""
        taken = self._taken.get(order_id)
        if taken is not None:
            self._leave(taken)

    def sweep(self) -> None:
        """Forget what is over, and drop the orders that were never sealed."""
        now_ms = self._mono_ms()
        for taken in [one for one in self._taken.values() if now_ms > one.until_ms]:
            self._leave(taken)
        for gateway, seals in list(self._early.items()):
            for digest in [one for one, early in seals.items() if now_ms > early.until_ms]:
                del seals[digest]
            if not seals:
                del self._early[gateway]
        self.metrics.gauge("miner_orders_unsealed", self.unsealed)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_MS / 1000)
            self.sweep()

    async def wait_quiet(self) -> None:
        """Until no order of this life misses a seal; the caller sets the deadline."""
        if self._undone:
            await self._quiet.wait()

    def _keep_early(self, gateway: str, digest: bytes, signature: str) -> None:
        """The order may come yet. Of too many the oldest goes."""
        seals = self._early.setdefault(gateway, {})
        if len(seals) >= self.unsealed_max:
            del seals[next(iter(seals))]
        seals[digest] = Early(signature, self._mono_ms() + self.seal_ms)

    def _of(self, gateway: str, order_id: str) -> Taken | None:
        """The order of that id, if it is this gateway's: no other learns that it is here."""
        taken = self._taken.get(order_id)
        return taken if taken is not None and taken.order.signer == gateway else None

    def _prove(self, taken: Taken, signature: str) -> None:
        """Each sealed order wins back the trust that a broken one cost."""
        taken.order.signature = signature
        if not taken.is_old:
            standing = self._standings[taken.order.signer]
            standing.unsealed -= 1
            standing.broken = max(standing.broken - 1, 0)
            self._tidy(taken.order.signer)
        self._rest(taken)

    def _rest(self, taken: Taken) -> None:
        """With both seals it is only kept for a gateway that asks again."""
        if taken.is_done:
            taken.until_ms = self._mono_ms() + ASK_AGAIN_MS
            self._finish(taken.order_id)

    def _drop_oldest(self) -> bool:
        """Make room by an old order, best one that needs no seal; False if all of them run."""
        oldest = [*islice(self._taken.values(), OLDEST_SEEN_MAX)]
        ended = [one for one in oldest if one.receipt is not None]
        if not ended:
            return False
        self._leave(next((one for one in ended if one.is_done), ended[0]))
        return True

    def _leave(self, taken: Taken) -> None:
        """Out of the table. Without its seal an order can never be claimed."""
        del self._taken[taken.order_id]
        self._finish(taken.order_id)
        if taken.order.is_signed:
            return
        self.outbox.settle(taken.order_id)
        gateway = taken.order.signer
        self.metrics.count("miner_orders_never_sealed_total")
        if taken.is_old:
            return
        standing = self._standings[gateway]
        standing.unsealed -= 1
        standing.broken = min(standing.broken + 1, self.unsealed_max)
        if standing.broken == 1:
            _log.warning("order.never_sealed", gateway=gateway, order_id=taken.order_id)

    def _tidy(self, gateway: str) -> None:
        if self._standings[gateway] == Standing():
            del self._standings[gateway]

    def _mono_ms(self) -> int:
        return self.time.mono_us() // 1000

    def _finish(self, order_id: str) -> None:
        self._undone.discard(order_id)
        if not self._undone:
            self._quiet.set()
