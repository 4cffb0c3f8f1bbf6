"""Who may enter: API key to account, limits per key, account and address, and the hold on the money.

A key is known here only by its SHA-256. What the ledger said of it is remembered, a refusal only
for seconds. Nobody waits here for a place: what is too much is refused at once.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from penstock.gateway.addresses import Addresses
from penstock.gateway.buckets import Bucket
from penstock.gateway.config import Bounds, CallerLimits
from penstock.gateway.errors import BadKey, GatewayError, RateLimited
from penstock.gateway.leases import Hold, Leases, Payer
from penstock.gateway.limits import AccountMeter, AddressMeter, KeyMeter, Meters
from penstock.kit.ports import Clock
from penstock.kit.wire.http import Request

KEY_PREFIX = "sk-penstock-"
KEY_CHARS_MAX = 256
HASHES_MAX = 1_024
LOCKS = 256
"""One question per key at a time, by stripes: strangers cannot make this grow."""
PLACE_WAIT_US = 1_000_000
"""When a place among those under way may be free again."""
KEY, ACCOUNT, ADDRESS, GATEWAY = "This key", "This account", "This address", "This gateway"
AT_ONCE = "requests at once"


@dataclass(slots=True, eq=False)
class Key:
    """One API key in use, with its limits and its account's."""

    key_hash: str
    payer: Payer
    meter: KeyMeter
    account: AccountMeter


class Ticket:
    """One request that was let in: its places, its work and its hold, ended together."""

    __slots__ = ("_admission", "_key", "_visitor", "_work", "hold", "is_settled")

    def __init__(
        self,
        admission: "Admission",
        key: Key,
        *,
        visitor: AddressMeter | None,
        work: int,
        hold: Hold,
    ) -> None:
        self._admission = admission
        self._key = key
        self._visitor = visitor
        self._work = work
        self.hold = hold
        self.is_settled = False

    @property
    def account(self) -> str:
        return self.hold.payer.account

    @property
    def lease_id(self) -> str:
        return self.hold.lease.lease_id

    def settle(self, charge_nano: int, work: int = 0) -> None:
        """The request has ended, costs this, and came to so much work. Once."""
        self.hold.settle(charge_nano)
        self.is_settled = True
        self._admission.left(self._key, self._visitor, unused=self._work - work)


class Admission:
    """The gate. All state is memory and bounded by `bounds`."""

    def __init__(
        self, *, leases: Leases, clock: Clock, limits: CallerLimits, bounds: Bounds
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._limits = limits
        self._bounds = bounds
        self._meters = Meters(limits)
        self._addresses = Addresses(limits.address.trusted_proxies)
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._bad_until_ms: OrderedDict[str, int] = OrderedDict()
        self.running = 0
        """Requests that were let in and have not ended, over all keys."""
        self._locks = tuple(asyncio.Lock() for _ in range(LOCKS))

    def visitor(self, request: Request) -> AddressMeter | None:
        """The meter of where a request comes from; None for one from inside."""
        return self._meters.address(self._addresses.of(request))

    def check_reads(self, visitor: AddressMeter | None) -> None:
        """May this address ask the ledger or the store once more? Counts it. Raises RateLimited."""
        if visitor is None:
            return
        wait_us = visitor.reads.take(1, self._clock.mono_us())
        if wait_us:
            what, limit = "such questions a second", self._limits.address.reads_per_s
            raise RateLimited(who=ADDRESS, what=what, limit=limit, wait_us=wait_us)

    def known_key(self, secret: str, visitor: AddressMeter | None) -> Key | None:
        """The key behind a bearer token, if it is known here. Raises BadKey, RateLimited."""
        try:
            return self._known(key_hash_of(secret))
        except BadKey as error:
            if error.given:
                self._count_failure(visitor)
            raise

    async def key_of(self, secret: str, visitor: AddressMeter | None) -> Key:
        """The key behind a bearer token. Raises BadKey, RateLimited, BooksBehind, InsufficientFunds."""
        key = self.known_key(secret, visitor)
        if key is not None:
            return key
        # Counted before the ledger is asked, and not only after: many questions may run at once.
        self._count_failure(visitor)
        key_hash = key_hash_of(secret)
        try:
            async with self._locks[int(key_hash[:2], 16) % LOCKS]:
                key = self._known(key_hash)
                if key is None:
                    key = await self._look_up(key_hash)
        except BadKey:
            raise
        except GatewayError:
            self._forgive(visitor)
            raise
        self._forgive(visitor)
        return key

    async def key_of_hash(self, key_hash: str) -> Key:
        """The same for work from inside, which knows a key by its hash only. Raises BadKey, BooksBehind,
        InsufficientFunds.
        """
        async with self._locks[int(key_hash[:2], 16) % LOCKS]:
            key = self._known(key_hash)
            return key if key is not None else await self._look_up(key_hash)

    def check_rate(self, key: Key) -> None:
        """May one more request of this key begin now? Counts it. Raises RateLimited."""
        limits, meter = self._limits, key.meter
        if meter.running >= limits.key.parallel_max:
            raise _full(KEY, limits.key.parallel_max)
        if key.account.running >= limits.payer.parallel_max:
            raise _full(ACCOUNT, limits.payer.parallel_max)
        if self.running >= self._bounds.running_max:
            raise _full(GATEWAY, self._bounds.running_max)
        wait_us = meter.requests.take(1, self._clock.mono_us())
        if wait_us:
            what, limit = "requests a second", limits.key.requests_per_s
            raise RateLimited(who=KEY, what=what, limit=limit, wait_us=wait_us)

    def try_enter(
        self, key: Key, visitor: AddressMeter | None, *, hold_nano: int, work: int
    ) -> Ticket | None:
        """A place and the hold, after `check_rate`. None: the place is taken, but the ledger must be
        asked for the hold, by `enter`, which is then owed.

        `work` is the most that the request may come to. Raises RateLimited.
        """
        self._take(key, visitor, work)
        hold = self._leases.try_hold(key.payer, hold_nano)
        if hold is None:
            return None
        key.payer.key_hash = key.key_hash
        return Ticket(self, key, visitor=visitor, work=work, hold=hold)

    async def enter(
        self, key: Key, visitor: AddressMeter | None, *, hold_nano: int, work: int
    ) -> Ticket:
        """The hold, after `try_enter` returned None. Raises InsufficientFunds, BooksBehind, BadKey."""
        key.payer.key_hash = key.key_hash
        hold = None
        try:
            hold = await self._leases.hold(key.payer, hold_nano)
        except BadKey:
            self._refuse(key.key_hash)
            raise
        finally:
            if hold is None:
                self.left(key, visitor, unused=work)
        return Ticket(self, key, visitor=visitor, work=work, hold=hold)

    def left(self, key: Key, visitor: AddressMeter | None, *, unused: int) -> None:
        """One request of this key has ended, and came to so much less than was thought."""
        meter, account = key.meter, key.account
        meter.running -= 1
        account.running -= 1
        self.running -= 1
        meter.work.give_back(unused)
        account.work.give_back(unused)
        if visitor is not None:
            visitor.work.give_back(unused)

    def _take(self, key: Key, visitor: AddressMeter | None, work: int) -> None:
        """A place and the work, of all who have a say. Raises RateLimited, and then takes nothing."""
        meter, account = key.meter, key.account
        now_us = self._clock.mono_us()
        if wait_us := meter.work.take(work, now_us):
            raise _too_much(KEY, meter.work, wait_us)
        if wait_us := account.work.take(work, now_us):
            meter.work.give_back(work)
            raise _too_much(ACCOUNT, account.work, wait_us)
        if visitor is not None and (wait_us := visitor.work.take(work, now_us)):
            meter.work.give_back(work)
            account.work.give_back(work)
            raise _too_much(ADDRESS, visitor.work, wait_us)
        meter.running += 1
        account.running += 1
        self.running += 1

    def _count_failure(self, visitor: AddressMeter | None) -> None:
        """One more key of this address that nobody knows. Raises RateLimited."""
        if visitor is None:
            return
        failures = visitor.failures
        wait_us = failures.take(1, self._clock.mono_us())
        if wait_us:
            what = "unknown API keys"
            raise RateLimited(who=ADDRESS, what=what, limit=failures.rate.full, wait_us=wait_us)

    def _forgive(self, visitor: AddressMeter | None) -> None:
        if visitor is not None:
            visitor.failures.give_back(1)

    def _known(self, key_hash: str) -> Key | None:
        until_ms = self._bad_until_ms.get(key_hash)
        if until_ms is not None:
            if self._clock.now_ms() < until_ms:
                raise BadKey(given=True)
            del self._bad_until_ms[key_hash]
        key = self._keys.get(key_hash)
        if key is None:
            return None
        if not key.meter.running and not self._leases.is_known(key.payer):
            del self._keys[key_hash]
            return None
        self._keys.move_to_end(key_hash)
        return key

    async def _look_up(self, key_hash: str) -> Key:
        try:
            payer = await self._leases.payer_of(key_hash)
        except BadKey:
            self._refuse(key_hash)
            raise
        account = self._meters.account(payer.account)
        key = Key(key_hash, payer, self._meters.new_key(), account)
        self._keys[key_hash] = key
        self._forget_old()
        return key

    def _refuse(self, key_hash: str) -> None:
        self._keys.pop(key_hash, None)
        self._bad_until_ms[key_hash] = self._clock.now_ms() + self._bounds.bad_key_ms
        if len(self._bad_until_ms) > self._bounds.bad_keys_max:
            self._bad_until_ms.popitem(last=False)

    def _forget_old(self) -> None:
        """The key used longest ago goes first; one that is running keeps its counts."""
        if len(self._keys) <= self._bounds.keys_max:
            return
        for key_hash, key in self._keys.items():
            if not key.meter.running:
                del self._keys[key_hash]
                return


def _too_much(who: str, bucket: Bucket, wait_us: int) -> RateLimited:
    what = "units of work a second (a prompt token is 1, a completion token 8)"
    return RateLimited(who=who, what=what, limit=bucket.rate.per_s, wait_us=wait_us)


def _full(who: str, limit: int) -> RateLimited:
    return RateLimited(who=who, what=AT_ONCE, limit=limit, wait_us=PLACE_WAIT_US)


@lru_cache(
    maxsize=HASHES_MAX
)  # heads, and the keys in them, are remembered as well (kit/wire/heads.py)
def key_hash_of(secret: str) -> str:
    """What a key is known by here. Raises BadKey for what cannot be one."""
    if not secret:
        raise BadKey(given=False)
    if not secret.startswith(KEY_PREFIX) or len(secret) > KEY_CHARS_MAX:
        raise BadKey(given=True)
    return sha256(secret.encode()).hexdigest()


def secret_of(request: Request) -> str:
    """The caller's key, as OpenAI's clients send it or as Anthropic's do."""
    return request.bearer() or request.header("x-api-key")
