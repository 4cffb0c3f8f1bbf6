"""Which models leave the cache when another needs their room. Pure: a rule, not an act.

Least recently used first; never one that is pinned; none in vain. Models share files, so a file's
room comes free only when the last model that holds it leaves.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """A model in the cache: its files (digest -> bytes), when it was last used, and is it in use?"""

    digest: str
    blobs: Mapping[str, int]
    used_ms: int
    is_pinned: bool


def evictions(kept: Sequence[Kept], *, need_bytes: int) -> tuple[str, ...] | None:
    """The digests to drop, so that at least `need_bytes` come free; None if that cannot be.

    In the order of last use (ties: by digest) models are taken until it is enough. Then, from the
    most recently used back, each that the others can do without is spared: a small old model is not
    thrown out beside the large one that makes the room alone.
    """
    if need_bytes <= 0:
        return ()
    chosen: list[Kept] = []
    for one in sorted(kept, key=lambda one: (one.used_ms, one.digest)):
        if one.is_pinned:
            continue
        chosen.append(one)
        if freed_bytes(kept, {one.digest for one in chosen}) >= need_bytes:
            break
    else:
        return None
    for one in reversed(chosen.copy()):
        others = {other.digest for other in chosen if other is not one}
        if freed_bytes(kept, others) >= need_bytes:
            chosen.remove(one)
    return tuple(one.digest for one in chosen)


def freed_bytes(kept: Sequence[Kept], dropped: Collection[str]) -> int:
    """What comes free when these leave: the files that no other model holds."""
    holders = Counter(blob for one in kept if one.digest not in dropped for blob in one.blobs)
    gone = {
        blob: size
        for one in kept
        if one.digest in dropped
        for blob, size in one.blobs.items()
        if not holders[blob]
    }
    return sum(gone.values())


def held_bytes(kept: Sequence[Kept]) -> int:
    """All files, each once."""
    return sum({blob: size for one in kept for blob, size in one.blobs.items()}.values())
