"""Who may enter: API key to account, limits per key, and the hold on the account's money.

A key is known here only by its SHA-256. What the ledger said of it is remembered, a refusal only
for seconds.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from penstock.gateway.config import Bounds, KeyLimits
from penstock.gateway.errors import BadKey, RateLimited
from penstock.gateway.leases import Hold, Leases, Payer
from penstock.kit.ports import Clock

KEY_PREFIX = "sk-penstock-"
KEY_CHARS_MAX = 256
LOCKS = 256
"""One question per key at a time, by stripes: strangers cannot make this grow."""
MICRO = 1_000_000


@dataclass(slots=True, eq=False)
class Key:
    """One API key in use. `tokens_micro` is its bucket, in millionths of a request."""

    key_hash: str
    payer: Payer
    tokens_micro: int
    filled_us: int
    running: int = 0


class Ticket:
    """One request that was let in: its place in the key's limit and its hold, ended together.

    It belongs to the request's handler until somebody else takes it over (`hand_over`).
    """

    __slots__ = ("_admission", "_key", "hold", "is_settled", "is_with_handler")

    def __init__(self, admission: "Admission", key: Key, hold: Hold) -> None:
        self._admission = admission
        self._key = key
        self.hold = hold
        self.is_settled = False
        self.is_with_handler = True

    @property
    def account(self) -> str:
        return self.hold.payer.account

    @property
    def lease_id(self) -> str:
        return self.hold.lease.lease_id

    def hand_over(self) -> None:
        """The handler is no longer the one who settles it."""
        self.is_with_handler = False

    def settle(self, charge_nano: int) -> None:
        """The request has ended and costs this. Once."""
        self.hold.settle(charge_nano)
        self.is_settled = True
        self._admission.left(self._key)


class Admission:
    """The gate. All state is memory and bounded by `bounds`."""

    def __init__(self, *, leases: Leases, clock: Clock, limits: KeyLimits, bounds: Bounds) -> None:
        self._leases = leases
        self._clock = clock
        self._limits = limits
        self._bounds = bounds
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._bad_until_ms: OrderedDict[str, int] = OrderedDict()
        self.running = 0
        """Requests that were let in and have not ended, over all keys."""
        self._locks = tuple(asyncio.Lock() for _ in range(LOCKS))

    async def key_of(self, secret: str) -> Key:
        """The key behind a bearer token. Raises BadKey, BooksBehind, InsufficientFunds."""
        if not secret:
            raise BadKey(given=False)
        if not secret.startswith(KEY_PREFIX) or len(secret) > KEY_CHARS_MAX:
            raise BadKey(given=True)
        digest = sha256(secret.encode())
        key_hash = digest.hexdigest()
        key = self._known(key_hash)
        if key is not None:
            return key
        async with self._locks[digest.digest()[0] % LOCKS]:
            key = self._known(key_hash)
            return key if key is not None else await self._look_up(key_hash)

    def check_rate(self, key: Key) -> None:
        """May the key start one more request now? Takes it from the bucket. Raises RateLimited."""
        limits = self._limits
        if key.running >= limits.parallel_max:
            raise RateLimited(what="requests at once", limit=limits.parallel_max, retry_after_s=1)
        now_us = self._clock.mono_us()
        full = limits.burst_max * MICRO
        gained = (now_us - key.filled_us) * limits.requests_per_s
        key.tokens_micro = min(full, key.tokens_micro + gained)
        key.filled_us = now_us
        if key.tokens_micro < MICRO:
            wait_us = (MICRO - key.tokens_micro) // max(1, limits.requests_per_s)
            raise RateLimited(
                what="requests a second",
                limit=limits.requests_per_s,
                retry_after_s=1 + wait_us // MICRO,
            )
        key.tokens_micro -= MICRO

    async def enter(self, key: Key, hold_nano: int) -> Ticket:
        """The hold, after `check_rate`. Raises InsufficientFunds, BooksBehind, BadKey."""
        key.running += 1
        self.running += 1
        key.payer.key_hash = key.key_hash
        hold = None
        try:
            hold = await self._leases.hold(key.payer, hold_nano)
        except BadKey:
            self._refuse(key.key_hash)
            raise
        finally:
            if hold is None:
                self.left(key)
        return Ticket(self, key, hold)

    def left(self, key: Key) -> None:
        """One request of this key has ended."""
        key.running -= 1
        self.running -= 1

    def _known(self, key_hash: str) -> Key | None:
        until_ms = self._bad_until_ms.get(key_hash)
        if until_ms is not None:
            if self._clock.now_ms() < until_ms:
                raise BadKey(given=True)
            del self._bad_until_ms[key_hash]
        key = self._keys.get(key_hash)
        if key is None:
            return None
        if not key.running and not self._leases.is_known(key.payer):
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
        key = Key(
            key_hash=key_hash,
            payer=payer,
            tokens_micro=self._limits.burst_max * MICRO,
            filled_us=self._clock.mono_us(),
        )
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
            if not key.running:
                del self._keys[key_hash]
                return
