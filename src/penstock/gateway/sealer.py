"""Seals: the signatures of orders, receipts and countersignatures, made and fetched in batches.

An order that has ended waits here until every word about it is signed: the order in a seal of ours,
the receipt in a seal of its miner, which is asked for at most `seal_ms` after the first of a batch.
Then the countersignature is sealed and the record goes to the recorder. A receipt whose seal does not
come, or does not hold, was only a promise: the order is closed as the miner's failure and the payer
gets the charge back. So a lease is given back only behind the last order that waits here.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TypeVar

import msgspec

from penstock.gateway.config import Deadlines
from penstock.gateway.forms import RECEIPT_WORD, RECORD, quoted
from penstock.gateway.leases import Hold, Leases
from penstock.gateway.orders import Placed
from penstock.gateway.policy import Told
from penstock.gateway.records import Recorder
from penstock.gateway.sessions import JSON, Peer, Session, Sessions
from penstock.kit.errors import WireError
from penstock.kit.handshake import seals_mac
from penstock.kit.log import events
from penstock.kit.metrics import Metrics
from penstock.kit.ports import Clock, Sign, Verify
from penstock.kit.spell import spell
from penstock.kit.tasks import Backoff, Errands
from penstock.kit.wire.client import HttpClient
from penstock.spec.canon import digest_spelled
from penstock.spec.receipts import Countersign, Outcome
from penstock.spec.seals import (
    SEAL_LEAVES_MAX,
    is_seal,
    seal_digest,
    seal_root,
    seal_signatures,
)

SEALS_PATH = "/v1/seals"
RETRY = Backoff(delay_ms_min=100, delay_ms_max=4_000)
ANSWER_BYTES_MAX = 65_536
NULL = b"null"

T = TypeVar("T")

_log = events("gateway")
_encode = msgspec.json.Encoder(order="sorted").encode
_read_countersign = msgspec.json.Decoder(Countersign).decode


class Ended(msgspec.Struct, eq=False):
    """An order that has ended, on its way to its record. `checkpoint` and `decision` are JSON."""

    placed: Placed
    told: Told | None
    checkpoint: bytes
    decision: bytes
    countersign: bytes
    """Its canonical body; not signed yet."""
    charge_nano: int
    hold: Hold
    receipt_signature: str = ""
    refund_nano: int = 0
    waiters: list[asyncio.Future[None]] | None = None

    @property
    def is_promised(self) -> bool:
        """Its receipt is vouched for and not signed yet."""
        return self.told is not None and not self.receipt_signature

    def record(self, countersign_signature: str) -> bytes:
        """The whole record as JSON: every part of it is canonical bytes already."""
        placed, told = self.placed, self.told
        gateway, receipt = quoted(placed.form.gateway), NULL
        if told is not None:
            signature = self.receipt_signature.encode()
            receipt = RECEIPT_WORD % (told.body, signature, quoted(placed.form.miner))
        return RECORD % (
            placed.body,
            placed.signature.encode(),
            gateway,
            receipt,
            self.checkpoint,
            self.countersign,
            countersign_signature.encode(),
            gateway,
            self.decision,
        )

    def broken(self) -> None:
        """The receipt's promise was not kept: the miner has failed, and nothing is to be paid."""
        seen = _read_countersign(self.countersign)
        self.refund_nano = self.charge_nano
        self.told = None
        self.countersign = spell(
            replace(
                seen,
                receipt_digest="",
                outcome=Outcome.MINER_FAILED,
                charge_nano=0,
                match=False,
            )
        )


@dataclass(slots=True, eq=False)
class Queue:
    """What of one peer waits for the next seal."""

    orders: list[Placed] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    is_due: bool = False


class OrderSeal(msgspec.Struct, frozen=True):
    """One signature of ours over these orders."""

    digests: list[str]
    order_ids: list[str]
    root_signature: str


@dataclass(frozen=True, slots=True)
class Batch:
    """One exchange: our seal over orders, and receipts to be sealed by the miner."""

    orders: OrderSeal | None
    asks: dict[str, Ended]
    due_us: int


class ReceiptSeal(msgspec.Struct, frozen=True):
    """The miner's signature over the receipts of these orders, in this order."""

    order_ids: list[str]
    root_signature: str


class SealsAnswer(msgspec.Struct, frozen=True):
    """What a miner answers."""

    receipts: ReceiptSeal | None = None
    unknown: list[str] = []


@dataclass(slots=True, eq=False)
class Sealer:
    """All that is to be signed, by peer. Bounded by the recorder's bound and `unsealed_max`."""

    clock: Clock
    sign: Sign
    verify: Verify
    http: HttpClient
    sessions: Sessions
    recorder: Recorder
    leases: Leases
    errands: Errands
    metrics: Metrics
    deadlines: Deadlines
    _queues: dict[Peer, Queue] = field(default_factory=dict)
    _pending: dict[str, tuple[Ended, Peer | None]] = field(default_factory=dict)
    _quiet: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Orders that have ended and are not on record yet."""
        return len(self._pending)

    def sent(self, peer: Peer, placed: Placed) -> None:
        """An order under a session is going out: it is to be sealed soon."""
        queue = self._queue(peer)
        queue.orders.append(placed)
        if len(queue.orders) >= SEAL_LEAVES_MAX:
            self._hurry(peer, queue)

    def ended(self, peer: Peer | None, entry: Ended) -> None:
        """An order has ended; its record follows when all of it is signed."""
        entry.hold.lease.pending += 1
        self._pending[entry.placed.order_id] = (entry, peer)
        if entry.told is not None:
            entry.receipt_signature = entry.told.signature
        if peer is None or (entry.placed.signature and not entry.is_promised):
            self._complete([entry])
            return
        peer.waiting += 1
        queue = self._queue(peer)
        queue.ended.append(entry)
        if len(queue.ended) >= SEAL_LEAVES_MAX:
            self._hurry(peer, queue)

    async def wait_for(self, order_id: str, *, deadline_ms: int) -> None:
        """Until this order is on record, if it waits here; at most so long."""
        found = self._pending.get(order_id)
        if found is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = found[0]
        entry.waiters = [*(entry.waiters or ()), waiter]
        await asyncio.wait((waiter,), timeout=deadline_ms / 1000)

    async def finish(self, *, deadline_ms: int) -> None:
        """Ask for all seals now and wait for them. What does not come is let go, without a record and
        without a charge: the miner has the order and its own receipt, and claims them.
        """
        for peer in list(self._queues):
            self._flush(peer)
        if self._pending:
            quiet: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._quiet.append(quiet)
            await asyncio.wait((quiet,), timeout=deadline_ms / 1000)
        for entry, owing in list(self._pending.values()):
            self.metrics.count("gateway_seals_given_up_total")
            _log.warning("seal.given_up", order=entry.placed.order_id)
            entry.refund_nano = entry.charge_nano
            self._forget(entry, owing)

    def _queue(self, peer: Peer) -> Queue:
        """The peer's queue; a new one is flushed `seal_ms` from now."""
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = Queue()
            queue.timer = asyncio.get_running_loop().call_later(
                self.deadlines.seal_ms / 1000, self._flush, peer
            )
        return queue

    def _hurry(self, peer: Peer, queue: Queue) -> None:
        """A batch is full; it goes as soon as the present request is done with."""
        if not queue.is_due:
            queue.is_due = True
            asyncio.get_running_loop().call_soon(self._flush, peer)

    def _flush(self, peer: Peer) -> None:
        """Sign the orders, complete what needs no more, and ask the miner for the rest."""
        queue = self._queues.pop(peer, None)
        if queue is None:
            return
        if queue.timer is not None:
            queue.timer.cancel()
        orders = [placed for placed in queue.orders if not placed.is_void]
        seals = [self._seal(batch) for batch in _batches(orders)]
        asks = [entry for entry in queue.ended if entry.is_promised]
        self._complete([entry for entry in queue.ended if not entry.is_promised], peer)
        due_us = self.clock.mono_us() + self.deadlines.seal_deadline_ms * 1000
        for seal, asked in zip_longest(seals, _batches(asks)):
            by_id = {entry.placed.order_id: entry for entry in asked or ()}
            batch = Batch(orders=seal, asks=by_id, due_us=due_us)
            self.errands.start("seals", self._exchange(peer, batch))

    def _seal(self, orders: Sequence[Placed]) -> OrderSeal:
        """Sign these orders together."""
        digests = [placed.covered for placed in orders]
        root_signature = self.sign.sign(seal_digest(seal_root(digests), len(digests)))
        signatures = seal_signatures(digests, root_signature)
        for placed, signature in zip(orders, signatures, strict=True):
            placed.signature = signature
        return OrderSeal(
            digests=[placed.digest for placed in orders],
            order_ids=[placed.order_id for placed in orders],
            root_signature=root_signature,
        )

    async def _exchange(self, peer: Peer, batch: Batch) -> None:
        """One batch, until it is done or its receipts are too old."""
        tries = 0
        while True:
            session = self.sessions.session_of(peer)
            answer = None if session is None else await self._post(peer, session, batch)
            if answer is not None:
                asks = self._take(peer, batch.asks, answer)
                batch = Batch(orders=None, asks=asks, due_us=batch.due_us)
                if not asks:
                    return
            tries += 1
            if self.clock.mono_us() >= batch.due_us:
                self._give_up(peer, list(batch.asks.values()), reason="late")
                return
            await asyncio.sleep(RETRY.delay_ms(tries) / 1000)

    async def _post(self, peer: Peer, session: Session, batch: Batch) -> SealsAnswer | None:
        """Send one exchange; None when nothing came of it."""
        said = {
            "orders": batch.orders,
            "receipts": list(batch.asks),
            "session_id": session.session_id,
        }
        rest = _encode(said)
        body = b'%b,"mac":"%b"}' % (rest[:-1], seals_mac(session.key, rest).encode())
        try:
            reply = await self.http.call(
                "POST",
                peer.endpoint + SEALS_PATH,
                headers=JSON,
                body=body,
                deadline_ms=self.deadlines.seal_call_ms,
                body_bytes_max=ANSWER_BYTES_MAX,
            )
            if reply.status == 200:
                return msgspec.json.decode(reply.body, type=SealsAnswer)
        except (WireError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if reply.status == 401:
            self.sessions.forget(peer, session)
        return None

    def _take(self, peer: Peer, asks: dict[str, Ended], answer: SealsAnswer) -> dict[str, Ended]:
        """Put the miner's seal to use; returns what is still to be asked for."""
        left = dict(asks)
        unknown = [left.pop(one) for one in answer.unknown if one in left]
        self._give_up(peer, unknown, reason="unknown")
        seal = answer.receipts
        if seal is None:
            return left
        sealed = [left.pop(one) for one in seal.order_ids if one in left]
        if not sealed:
            return left
        words = [entry.told.covered for entry in sealed if entry.told is not None]
        signature = seal.root_signature
        if (
            len(words) != len(seal.order_ids)
            or is_seal(signature)
            or not self.verify(peer.miner, seal_digest(seal_root(words), len(words)), signature)
        ):
            self._give_up(peer, sealed, reason="forged")
            return left
        for entry, text in zip(sealed, seal_signatures(words, signature), strict=True):
            entry.receipt_signature = text
        self._complete(sealed, peer)
        return left

    def _give_up(self, peer: Peer, entries: Sequence[Ended], *, reason: str) -> None:
        """These receipts were promises that were not kept."""
        if not entries:
            return
        _log.warning("seal.failed", miner=peer.miner, reason=reason, count=len(entries))
        self.metrics.count("gateway_seals_failed_total", len(entries), reason=reason)
        for entry in entries:
            entry.broken()
        self._complete(entries, peer)

    def _complete(self, entries: Sequence[Ended], peer: Peer | None = None) -> None:
        """All but our own last word is signed: sign it, and off to the recorder."""
        for batch in _batches(entries):
            # One that was let go when the gateway stopped is not here any more.
            live = [one for one in batch if one.placed.order_id in self._pending]
            for entry, signature in zip(live, self._countersigned(live), strict=True):
                hold = entry.hold
                self.recorder.add(
                    entry.placed.order_id,
                    entry.record(signature),
                    account=hold.payer.account,
                    lease_id=hold.lease.lease_id,
                )
                self._forget(entry, peer)

    def _countersigned(self, entries: Sequence[Ended]) -> Sequence[str]:
        digests = [digest_spelled("countersign", entry.countersign) for entry in entries]
        if not digests:
            return ()
        if len(digests) == 1:
            return (self.sign.sign(digests[0]),)
        root_signature = self.sign.sign(seal_digest(seal_root(digests), len(digests)))
        return seal_signatures(digests, root_signature)

    def _forget(self, entry: Ended, peer: Peer | None) -> None:
        """The order is on record, or never will be."""
        del self._pending[entry.placed.order_id]
        if peer is not None:
            peer.waiting -= 1
        self.leases.recorded(entry.hold, refund_nano=entry.refund_nano)
        for waiter in entry.waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        if not self._pending:
            for quiet in self._quiet:
                if not quiet.done():
                    quiet.set_result(None)
            self._quiet.clear()


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """At most SEAL_LEAVES_MAX at a time."""
    for start in range(0, len(items), SEAL_LEAVES_MAX):
        yield items[start : start + SEAL_LEAVES_MAX]
