"""Money the ledger has put at this gateway's disposal: one lease per account, spent from memory.

A hold is taken from a lease before an order is sent and settled exactly once when its request has
ended. At rest `held_nano` is 0. The ledger is asked only to open, extend and renew leases, so its
absence stops nothing that fits the present lease.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from penstock.gateway.errors import BadKey, BooksBehind, InsufficientFunds
from penstock.kit.ports import Ask, BusDown, Clock

LEASE_SUBJECT = "ledger.lease"
EXPIRY_MARGIN_MS = 1_000
"""Nothing new is held in a lease's last second: the two clocks may differ."""
RETURN_MS = 3_000
"""A closed lease's money is back in its account within this time; until then a refusal is not final."""
REFUSED_REST_MS = 5_000
"""After the ledger refused to extend a lease in the background it is left alone this long."""


TOP_UP_NANO = 1
"""What is asked for ahead of need: the ledger adds what is usual, and an account that many share is
not bound here for what nobody has asked for.
"""


class LeaseAnswer(msgspec.Struct):
    """What the ledger says: a lease, or `error` and what is available."""

    account: str = ""
    lease_id: str = ""
    granted_nano: int = 0
    expires_ms: int = 0
    error: str = ""
    available_nano: int = 0


class GiveBack(Protocol):
    """Where closings go: behind all records of the lease, on the same way to the ledger."""

    def lease_closed(self, lease_id: str) -> None:
        """The gateway holds nothing under this lease any more."""
        ...


@dataclass(slots=True, eq=False)
class Lease:
    """One lease. What it can still hold is granted - spent - held."""

    lease_id: str
    granted_nano: int
    expires_ms: int
    spent_nano: int = 0
    held_nano: int = 0
    holds: int = 0
    pending: int = 0
    """Orders that have ended under it and are not on record yet."""
    filled_nano: int = 0
    """What was free when the ledger last granted something: a measure of what the account bears."""
    is_retired: bool = False
    """Nothing new is held under it; it is given back with its last hold, behind its last record."""

    @property
    def is_idle(self) -> bool:
        """No request runs under it and no record of it is outstanding."""
        return not self.holds and not self.pending

    @property
    def free_nano(self) -> int:
        return self.granted_nano - self.spent_nano - self.held_nano


@dataclass(slots=True, eq=False)
class Payer:
    """An account that pays, with its present lease. `key_hash` is a key that may ask for it."""

    account: str
    key_hash: str
    lease: Lease | None = None
    used_ms: int = 0
    closed_ms: int = -RETURN_MS
    rest_until_ms: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Hold:
    """Money set aside for one request, until `settle`."""

    __slots__ = ("_is_settled", "_leases", "lease", "nano", "payer")

    def __init__(self, leases: "Leases", payer: Payer, lease: Lease, *, nano: int) -> None:
        self._leases = leases
        self._is_settled = False
        self.payer = payer
        self.lease = lease
        self.nano = nano
        lease.held_nano += nano
        lease.holds += 1

    def settle(self, charge_nano: int) -> None:
        """Spend `charge_nano` of it and free the rest. Once."""
        assert not self._is_settled, "a hold is settled once"
        assert 0 <= charge_nano <= self.nano, "a charge is within its hold"
        self._is_settled = True
        lease = self.lease
        lease.held_nano -= self.nano
        lease.holds -= 1
        lease.spent_nano += charge_nano
        self._leases.settled(self.payer, lease)


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The numbers leases are kept by. `gateway` is the identity that asks."""

    gateway: str
    amount_nano: int
    ttl_ms: int
    ask_ms: int
    idle_ms: int
    payers_max: int


class Leases:
    """All payers and their leases. `keep` is the loop that tops up, renews and gives back."""

    def __init__(self, *, ask: Ask, clock: Clock, give_back: GiveBack, terms: LeaseTerms) -> None:
        self._ask = ask
        self._clock = clock
        self._give_back = give_back
        self._terms = terms
        self._payers: OrderedDict[str, Payer] = OrderedDict()
        self._wanted = asyncio.Event()

    @property
    def count(self) -> int:
        """Live leases."""
        return sum(payer.lease is not None for payer in self._payers.values())

    @property
    def held_nano(self) -> int:
        """All that is held, over all present leases."""
        return sum(payer.lease.held_nano for payer in self._payers.values() if payer.lease)

    async def payer_of(self, key_hash: str) -> Payer:
        """Ask the ledger whose key this is; its answer opens a lease.

        Raises BadKey, BooksBehind, InsufficientFunds.
        """
        answer = await self._question(key_hash, lease_id="", need_nano=0)
        now_ms = self._clock.now_ms()
        payer = self._payers.get(answer.account)
        if payer is None:
            self._make_room()
            payer = Payer(account=answer.account, key_hash=key_hash, used_ms=now_ms)
            self._payers[answer.account] = payer
        # Not while the present lease is being extended: both answers would claim to be the lease.
        async with payer.lock:
            self._take(payer, answer, asked=None)
        return payer

    async def hold(self, payer: Payer, nano: int) -> Hold:
        """Set `nano` aside for one request; asks the ledger only when the lease is too small.

        Raises InsufficientFunds, BooksBehind, BadKey (the key was closed since).
        """
        hold = self.try_hold(payer, nano)
        if hold is not None:
            return hold
        # A payer that was dropped for want of room while this request waited comes back.
        payer = self._payers.setdefault(payer.account, payer)
        async with payer.lock:
            hold = self._held(payer, nano)
            if hold is None:
                hold = await self._extend(payer, nano)
        if self._is_low(hold.lease):
            self._wanted.set()
        return hold

    def try_hold(self, payer: Payer, nano: int) -> Hold | None:
        """Set `nano` aside if the present lease has it; None when the ledger must be asked."""
        payer = self._payers.setdefault(payer.account, payer)
        payer.used_ms = now_ms = self._clock.now_ms()
        lease = payer.lease
        if lease is None or now_ms > lease.expires_ms - EXPIRY_MARGIN_MS or lease.free_nano < nano:
            return None
        hold = Hold(self, payer, lease, nano=nano)
        if self._is_low(lease):
            self._wanted.set()
        return hold

    def settled(self, payer: Payer, lease: Lease) -> None:
        """A hold of this lease has ended; the last one of a retired lease gives it back."""
        payer.used_ms = self._clock.now_ms()
        if lease.is_retired and lease.is_idle:
            self._give_back.lease_closed(lease.lease_id)

    def recorded(self, hold: Hold, *, refund_nano: int) -> None:
        """An order under this hold's lease is on record, or never will be. `refund_nano` was spent on
        it and is free again.
        """
        lease = hold.lease
        assert 0 <= refund_nano <= lease.spent_nano, "what is refunded was spent"
        lease.pending -= 1
        lease.spent_nano -= refund_nano
        if lease.is_retired and lease.is_idle:
            self._give_back.lease_closed(lease.lease_id)

    def is_known(self, payer: Payer) -> bool:
        """False once it was dropped for want of room: its keys must be asked for again."""
        return self._payers.get(payer.account) is payer

    async def keep(self, *, beat_ms: int) -> None:
        """For ever: top up what is low, renew what is used, give back what is not."""
        while True:
            for payer in list(self._payers.values()):
                if not await self._tend(payer):
                    break  # the ledger is away; the next beat tries again
            try:
                async with asyncio.timeout(beat_ms / 1000):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # nobody was in a hurry: it is simply time again
            self._wanted.clear()

    def close(self) -> None:
        """Give every lease back, as soon as nothing is held under it."""
        for payer in self._payers.values():
            self._retire(payer)

    def _held(self, payer: Payer, nano: int) -> Hold | None:
        lease = payer.lease
        if lease is None or not self._is_live(lease):
            return None
        return Hold(self, payer, lease, nano=nano) if lease.free_nano >= nano else None

    async def _extend(self, payer: Payer, nano: int) -> Hold:
        """A hold after the ledger extended the lease, or opened one if there was none."""
        self._drop_expired(payer)
        lease = payer.lease
        lease_id, free = ("", 0) if lease is None else (lease.lease_id, lease.free_nano)
        missing = max(0, nano - free)
        try:
            answer = await self._question(payer.key_hash, lease_id=lease_id, need_nano=missing)
            available = answer.granted_nano
        except InsufficientFunds as error:
            answer, available = None, error.available_nano + free
        if answer is not None:
            self._take(payer, answer, asked=lease)
            hold = self._held(payer, nano)
            if hold is not None:
                return hold
        if self._clock.now_ms() - payer.closed_ms < RETURN_MS:
            raise BooksBehind(what="This account's last lease is just being returned to it.")
        raise InsufficientFunds(needed_nano=nano, available_nano=available)

    async def _tend(self, payer: Payer) -> bool:
        """One payer's upkeep; False when the ledger does not answer."""
        now_ms = self._clock.now_ms()
        self._drop_expired(payer)
        lease = payer.lease
        if lease is None:
            return True
        if not lease.holds and now_ms - payer.used_ms >= self._terms.idle_ms:
            self._retire(payer)
            return True
        low = self._is_low(lease) and now_ms >= payer.rest_until_ms
        ageing = lease.expires_ms - now_ms < self._terms.ttl_ms // 2
        if not low and not ageing:
            return True
        try:
            async with payer.lock:
                if payer.lease is lease:
                    await self._top_up(payer, lease, TOP_UP_NANO if low else 0)
        except BooksBehind:
            return False
        except BadKey:
            self._retire(payer)
        return True

    async def _top_up(self, payer: Payer, lease: Lease, more_nano: int) -> None:
        """Extend by `more_nano`, or only renew when the account does not reach."""
        lease_id = lease.lease_id
        try:
            answer = await self._question(payer.key_hash, lease_id=lease_id, need_nano=more_nano)
        except InsufficientFunds:
            payer.rest_until_ms = self._clock.now_ms() + REFUSED_REST_MS
            if not more_nano:
                return
            try:
                answer = await self._question(payer.key_hash, lease_id=lease_id, need_nano=0)
            except InsufficientFunds:
                return
        self._take(payer, answer, asked=lease)

    async def _question(self, key_hash: str, *, lease_id: str, need_nano: int) -> LeaseAnswer:
        question = msgspec.json.encode(
            {
                "gateway": self._terms.gateway,
                "key_hash": key_hash,
                "lease_id": lease_id,
                "need_nano": need_nano,
            }
        )
        try:
            data = await self._ask.ask(LEASE_SUBJECT, question, deadline_ms=self._terms.ask_ms)
            answer = msgspec.json.decode(data, type=LeaseAnswer)
        except (BusDown, msgspec.DecodeError) as error:
            raise BooksBehind(what="The ledger does not answer, so funds are unknown.") from error
        if answer.error == "unknown_key":
            raise BadKey(given=True)
        if answer.error == "insufficient_funds":
            raise InsufficientFunds(needed_nano=need_nano, available_nano=answer.available_nano)
        if answer.error or not answer.account or not answer.lease_id:
            raise BooksBehind(what="The ledger's answer makes no sense, so funds are unknown.")
        return answer

    def _take(self, payer: Payer, answer: LeaseAnswer, *, asked: Lease | None) -> None:
        """Put an answer to use: the lease that was asked about grows, also when it was retired since;
        of two leases the one with more stays.
        """
        if asked is not None and asked.lease_id == answer.lease_id:
            if answer.granted_nano != asked.granted_nano:
                asked.granted_nano = answer.granted_nano
                asked.filled_nano = asked.free_nano
            asked.expires_ms = answer.expires_ms
            return
        lease = payer.lease
        if lease is not None and self._is_live(lease) and lease.free_nano >= answer.granted_nano:
            self._give_back.lease_closed(answer.lease_id)
            return
        self._retire(payer)
        payer.lease = Lease(
            lease_id=answer.lease_id,
            granted_nano=answer.granted_nano,
            expires_ms=answer.expires_ms,
            filled_nano=answer.granted_nano,
        )

    def _retire(self, payer: Payer) -> None:
        lease, payer.lease = payer.lease, None
        if lease is not None:
            payer.closed_ms = self._clock.now_ms()
            lease.is_retired = True
            if lease.is_idle:
                self._give_back.lease_closed(lease.lease_id)

    def _is_low(self, lease: Lease) -> bool:
        """Half of what it was last filled to is gone: more is asked for before it is needed."""
        return lease.free_nano < min(self._terms.amount_nano, lease.filled_nano) // 2

    def _is_live(self, lease: Lease) -> bool:
        return self._clock.now_ms() <= lease.expires_ms - EXPIRY_MARGIN_MS

    def _drop_expired(self, payer: Payer) -> None:
        if payer.lease is not None and self._clock.now_ms() > payer.lease.expires_ms:
            self._retire(payer)

    def _make_room(self) -> None:
        """Forget the payer that came first of those without holds, so that the cache is bounded."""
        if len(self._payers) < self._terms.payers_max:
            return
        for account, payer in self._payers.items():
            if payer.lease is None or not payer.lease.holds:
                self._retire(payer)
                del self._payers[account]
                return
        raise BooksBehind(what="Too many accounts are in use at this gateway.")
