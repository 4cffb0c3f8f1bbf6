"""What this gateway has learned of one instance by using it: load, speed, cache, and whether it rests.

The breaker opens after three failures in a row, for 5 s, doubling to 30 s with each failure of the
one trial that is let through when the rest is over (OpenRouter forgets outages after 30 s too).
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from penstock.gateway.shelves import Memory, Shelf
from penstock.spec.entries import BUCKET_MAX, size_bucket
from penstock.spec.messages import Offer, Tier
from penstock.spec.pricing import is_within
from penstock.spec.units import FREE, PPM, Price

FAILURES_MAX = 3
REST_MS_MIN = 5_000
REST_MS_MAX = 30_000
ANSWERS_MAX = 32
"""A new measurement weighs one in so many, the first ones more: answers differ in length by nature."""
ANSWERS_MIN = 12
"""Answers of one size after which an instance has a pace of its own."""
EXPECTED_MAX = 4_096
"""Placements of one instance whose receipts are still awaited."""
FOREVER_MS = 1 << 62
NS_PER_US = 1_000


class Lessons(Protocol):
    """Who else learns from an instance's answers: the field of its chute."""

    def measured(self, instance: "Instance", *, pace_ns: int, bucket: int) -> None: ...
    def completed(self, prompt_tokens: int, completion: int) -> None: ...


class Expected(msgspec.Struct):
    """What was believed of a placement when it was made: so much cached, last used so far back.

    `distance` is 0 when nothing could be learned: a prompt that is new, or was there just before.
    """

    tokens: int
    prompt_tokens: int
    distance: int


@dataclass(slots=True, eq=False)
class Instance:
    """An instance by its present offer. A pace of 0 means that nothing was measured."""

    offer: Offer
    running: int = 0
    peak: int = 0
    """The most of our orders that ran there at once since the offer before the present one."""
    room_most: int = 0
    """The most it is known to hold: room it offered, and what of ours ran all the while."""
    room: int = 0
    """How many of our orders may run there at once (see `_read`)."""
    chute: str = ""
    price: Price = FREE
    valid_until_ms: int = 0
    pace_ns: int = 0
    """Nanoseconds per work unit, over requests of all sizes."""
    ttft_us: int = 0
    """Time to the first byte, over requests of all sizes."""
    failures: int = 0
    rest_ms: int = 0
    broken_until_ms: int = 0
    is_away: bool = False
    """Its miner must dial us and has not: there is no room that we could reach."""
    is_trial: bool = False
    """The breaker is half open and its one trial is running."""
    given_us: int = 0
    """Expected time of what it was given, halved now and then (see field.py)."""
    cost_ppm: int = PPM
    """Its price against the usual price of its chute."""
    shelf: Shelf = field(default_factory=lambda: Shelf(Memory()))
    lessons: Lessons | None = None
    paces_ns: list[int] = field(default_factory=lambda: [0] * (BUCKET_MAX + 1))
    """By the size of the request's work (`size_bucket`); 0 until enough answers were seen."""
    _early_ns: list[int] = field(default_factory=lambda: [0] * (BUCKET_MAX + 1))
    _answers: list[int] = field(default_factory=lambda: [0] * (BUCKET_MAX + 1))
    _answers_all: int = 0
    asked_price: Price | None = None
    is_fit: bool = True
    """The last ceiling that `fits` was asked for, and what it said."""
    _expected: OrderedDict[str, Expected] = field(default_factory=OrderedDict)
    _most: int = 0
    """The most, and below the least, that ran at once since the present offer came."""
    _least: int = 0

    def __post_init__(self) -> None:
        self.room_most = self.offer.room
        self._read()

    @property
    def name(self) -> str:
        return self.offer.instance

    @property
    def tier(self) -> Tier:
        return self.offer.tier

    @property
    def rests_until_ms(self) -> int:
        """A half-open breaker with its trial under way is still open."""
        return FOREVER_MS if self.is_trial else self.broken_until_ms

    def fits(self, price_max: Price) -> bool:
        """Is no part of its price above this? The last answer is remembered: it is asked for often."""
        if price_max is not self.asked_price:
            self.asked_price = price_max
            self.is_fit = is_within(self.price, price_max)
        return self.is_fit

    @property
    def has_room(self) -> bool:
        """Room for one more of ours."""
        return self.running < self.room

    @property
    def is_measured(self) -> bool:
        """Has it ever answered completely?"""
        return self.pace_ns > 0

    def renewed(self, offer: Offer) -> None:
        """A newer offer has come."""
        self.offer = offer
        self.room_most = max(self.room_most, offer.room + self._least)
        self.peak = self._most
        self._most = self._least = self.running
        self._read()

    def reached(self, *, is_here: bool) -> None:
        """Its miner has reverse connections to us now, or none any more."""
        self.is_away = not is_here
        self._read()

    def started(self) -> None:
        """An order goes out to it."""
        self.running = running = self.running + 1
        self._most = max(self._most, running)
        if self.failures >= FAILURES_MAX:
            self.is_trial = True

    def succeeded(self, *, total_us: int, work: int, ttft_us: int = 0) -> None:
        """It answered completely: `work` units in `total_us`."""
        self._ended()
        self.failures = 0
        self.rest_ms = 0
        seen_all = self._answers_all
        if seen_all < ANSWERS_MAX:
            seen_all += 1
        if ttft_us > 0:
            self.ttft_us = _smooth(self.ttft_us, ttft_us, seen_all)
        if work > 0:
            pace_ns = max(1, total_us * NS_PER_US // work)
            bucket = size_bucket(work)
            seen = self._answers[bucket]
            if seen < ANSWERS_MAX:
                seen += 1
                self._answers[bucket] = seen
            early_ns = self._early_ns[bucket] = _smooth(self._early_ns[bucket], pace_ns, seen)
            self.paces_ns[bucket] = early_ns if seen >= ANSWERS_MIN else 0
            self._answers_all = seen_all
            self.pace_ns = _smooth(self.pace_ns, pace_ns, seen_all)
            if self.lessons is not None:
                self.lessons.measured(self, pace_ns=pace_ns, bucket=bucket)

    def failed(self, now_ms: int) -> bool:
        """It failed an order; True when that opened the breaker."""
        self._ended()
        self.failures += 1
        if self.failures < FAILURES_MAX:
            return False
        self.rest_ms = min(max(self.rest_ms * 2, REST_MS_MIN), REST_MS_MAX)
        self.broken_until_ms = now_ms + self.rest_ms
        return True

    def ended(self) -> None:
        """The order ended without saying anything about it (refused in time, client gone)."""
        self._ended()

    def expect(self, decision_digest: str, expected: Expected) -> None:
        """The order with this decision went here, with this belief."""
        waiting = self._expected
        waiting[decision_digest] = expected
        if len(waiting) > EXPECTED_MAX:
            waiting.popitem(last=False)

    def told(self, decision_digest: str, *, cached: int, completion: int) -> None:
        """A receipt says how much of the prompt was cached, and how long the answer became."""
        expected = self._expected.pop(decision_digest, None)
        if expected is None:
            return
        if expected.distance:
            is_hit = cached * 2 >= expected.tokens
            self.shelf.memory.saw(expected.distance, is_hit=is_hit)
        elif cached:
            self.shelf.memory.is_reported = True
        if self.lessons is not None:
            self.lessons.completed(expected.prompt_tokens, completion)

    def _ended(self) -> None:
        assert self.running > 0, "an order ends once"
        self.running = running = self.running - 1
        self._least = min(self._least, running)
        self.is_trial = False

    def _read(self) -> None:
        """What every choice looks at stands here itself.

        An offer names the room that was free when it was signed, up to a beat ago; our own orders
        of that moment are not in it and may have ended since. So what it named and the most we ran
        around then add up, but never to more than it is known to hold: too much costs a quick refusal
        and a failover, too little would turn requests away from free slots until the next offer.
        """
        offer = self.offer
        self.chute, self.price = offer.chute, offer.price
        self.valid_until_ms = offer.valid_until_ms
        self.asked_price = None
        self.room = 0 if self.is_away else min(offer.room + self.peak, self.room_most)


def _smooth(old: int, new: int, weight: int) -> int:
    """The average after `new`, which weighs one in `weight`. At least 1: 0 stands for unknown."""
    average = old + (new - old) // weight
    return average if average > 0 else 1
