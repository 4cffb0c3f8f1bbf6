"""What this gateway believes to be in the prefix cache of one instance, and how it comes to believe it.

A shelf is our own record of what was sent there, in order of last use, with a clock that counts
tokens. How far back the instance really remembers is learned from receipts: every repeated prompt
says whether one of that distance was still cached. Instances with the same hardware and chute
learn together.
"""

from collections import OrderedDict, deque
from itertools import islice
from typing import Protocol

from penstock.spec.prefixes import (
    AGE_BUCKETS,
    DISTANCE_BUCKETS,
    KINDS,
    Held,
    age_bucket,
    bucket_floor,
    distance_bucket,
    held,
    kind_of,
    return_rates,
)
from penstock.spec.units import PPM

LIVE_MAX = 4096
"""Prompts believed to be in one instance's cache."""
GHOSTS_MAX = 1024
"""Prompts that were, kept to learn from their return."""
LOST_MAX = 16
"""Prompts looked at to tell what a new one would push out."""
LEARN_EVERY = 32
COUNT_SCALE = 16
GONE_AFTER = 1_024
"""Requests of the chute after which a prompt that was not continued counts as finished."""
FADE_EVERY = 4096
FADE_OLD, FADE_ALL = 3, 4
EDGE_ALL = 1 << 62


class Used(Protocol):
    """What is used: `used` is the sequence number of the latest time, `kind` how it came then."""

    used: int
    kind: int


class Memory:
    """How far back instances of one kind remember: counts of hits and misses by distance."""

    __slots__ = ("_hits", "_misses", "_seen", "capacity_tokens", "is_reported", "share_ppm")

    def __init__(self) -> None:
        self._hits = [0] * DISTANCE_BUCKETS
        self._misses = [0] * DISTANCE_BUCKETS
        self._seen = 0
        self.is_reported = False
        """Has any receipt ever spoken of cached units? An engine that never does teaches nothing."""
        self._read(held(self._hits, self._misses))

    def saw(self, distance: int, *, is_hit: bool) -> None:
        """A prompt whose last use was so far back was, or was not, still cached."""
        if is_hit:
            self.is_reported = True
        if not self.is_reported:
            return
        counts = self._hits if is_hit else self._misses
        counts[distance_bucket(distance)] += COUNT_SCALE
        self._seen += 1
        if self._seen % LEARN_EVERY and self._seen > LEARN_EVERY:
            return
        if self._seen % FADE_EVERY == 0:
            self._hits = [count * FADE_OLD // FADE_ALL for count in self._hits]
            self._misses = [count * FADE_OLD // FADE_ALL for count in self._misses]
        self._read(held(self._hits, self._misses))

    def _read(self, belief: Held) -> None:
        self.share_ppm = belief.share_ppm
        is_all = belief.edge == DISTANCE_BUCKETS
        self.capacity_tokens = EDGE_ALL if is_all else bucket_floor(belief.edge)


class Returns:
    """How soon prompts of one chute are continued: counts by kind, and by age in requests."""

    __slots__ = ("_gone", "_returned", "_seen", "_uses", "rate_ppm")

    def __init__(self) -> None:
        self._returned = [[0] * AGE_BUCKETS for _ in range(KINDS)]
        self._gone = [0] * KINDS
        self._seen = 0
        self._uses: deque[tuple[Used, int]] = deque()
        self.rate_ppm = [return_rates(counts, 0) for counts in self._returned]

    def used(self, thread: Used, sequence: int, *, is_continued: bool) -> None:
        """The thread is asked for now; whoever was not for GONE_AFTER requests counts as gone."""
        kind = thread.kind
        if is_continued:
            age = sequence - thread.used
            self._returned[kind][age_bucket(age)] += COUNT_SCALE
            thread.kind = kind_of(age)
        thread.used = sequence
        uses = self._uses
        uses.append((thread, sequence))
        if sequence - uses[0][1] > GONE_AFTER:
            former, at = uses.popleft()
            if former.used == at:
                self._gone[former.kind] += COUNT_SCALE
        self._seen += 1
        if self._seen % LEARN_EVERY:
            return
        if self._seen % FADE_EVERY == 0:
            for counts in self._returned:
                counts[:] = [count * FADE_OLD // FADE_ALL for count in counts]
            self._gone = [count * FADE_OLD // FADE_ALL for count in self._gone]
        # One kind at a time, those that come most most often: no request pays for all of them.
        self.rate_ppm[kind] = return_rates(self._returned[kind], self._gone[kind])


class Shelf:
    """One instance's cache as we believe it to be. Entries are (tokens, sequence,
    clock, kind) by thread.

    `sequence` counts requests of the chute, `clock` tokens put on this shelf.
    """

    __slots__ = ("clock", "ghosts", "live", "memory")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.clock = 0
        self.live: OrderedDict[int, tuple[int, int, int, int]] = OrderedDict()
        self.ghosts: OrderedDict[int, tuple[int, int, int, int]] = OrderedDict()

    def last(self, thread: int) -> tuple[int, int]:
        """What was here of the thread: its tokens, and its distance, the tokens between now and the
        end of its last use, its own included. The distance is 0 if nothing came between; both are if
        it was never here, or too long ago.
        """
        entry = self.live.get(thread) or self.ghosts.get(thread)
        if entry is None:
            return 0, 0
        tokens, _, clock, _ = entry
        return tokens, 0 if clock == self.clock else self.clock - clock + tokens

    def believed(self, thread: int, tokens: int) -> int:
        """How many of so many tokens of this thread are expected in the cache."""
        entry = self.live.get(thread) or self.ghosts.get(thread)
        if entry is None:
            return 0
        kept, _, clock, _ = entry
        tokens = min(tokens, kept)
        if clock == self.clock:
            return tokens
        share_ppm = self.memory.share_ppm[distance_bucket(self.clock - clock + kept)]
        return tokens * share_ppm // PPM

    def loss(self, grow: int, *, thread: int, sequence: int, returns: Returns) -> int:
        """Tokens that would have to be computed again soon if so many new ones came here."""
        room = self.memory.capacity_tokens - grow
        if self.clock <= room:
            return 0
        lost = 0
        clock, capacity, rate_ppm = self.clock, self.memory.capacity_tokens, returns.rate_ppm
        for other, (tokens, used, at, kind) in islice(self.live.items(), LOST_MAX):
            distance = clock - at + tokens
            if distance <= room and at != clock:
                break
            if other == thread or (distance > capacity and at != clock):
                continue
            lost += tokens * rate_ppm[kind][age_bucket(sequence - used)] // PPM
        return lost

    def put(self, thread: int, tokens: int, *, fresh: int, sequence: int, kind: int) -> None:
        """The thread was served here: `tokens` long now, `fresh` of them new to the cache."""
        self.clock += fresh
        live = self.live
        live.pop(thread, None)
        self.ghosts.pop(thread, None)
        live[thread] = (tokens, sequence, self.clock, kind)
        oldest = self.clock - self.memory.capacity_tokens
        while len(live) > 1:
            first = next(iter(live))
            entry = live[first]
            if entry[2] - entry[0] >= oldest and len(live) <= LIVE_MAX:
                break
            self.ghosts[first] = live.pop(first)
            if len(self.ghosts) > GHOSTS_MAX:
                self.ghosts.popitem(last=False)
