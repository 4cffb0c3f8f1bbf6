"""A sample of an epoch's records, judged again with all their signatures.

It is drawn from the signed checkpoint, which the ledger cannot know before it has chosen every
entry, and from the validator's own identity, so that each validator looks elsewhere.
"""

import hashlib
from dataclasses import dataclass, field
from heapq import heappush, heappushpop

from penstock.client.segments import Leaf
from penstock.spec.units import PPM

SAMPLE_RECORDS_MIN = 20
DRAW_BYTES = 8


def sample_seed(root: bytes, identity: str, epoch: int) -> bytes:
    """SHA-256 over the checkpoint's root, the validator and the epoch."""
    return hashlib.sha256(root + identity.encode() + epoch.to_bytes(8, "big")).digest()


@dataclass(slots=True)
class Sample:
    """Offer it every record once: it keeps `share_ppm` of them, and at least 20 (or all)."""

    seed: bytes
    share_ppm: int
    _drawn: list[Leaf] = field(default_factory=list)
    _nearest: list[tuple[int, int, Leaf]] = field(default_factory=list)

    def offer(self, leaf: Leaf) -> None:
        """A record's fate hangs on its place alone, so that one pass is enough."""
        drawn = hashlib.sha256(self.seed + leaf.seq.to_bytes(8, "big")).digest()[:DRAW_BYTES]
        lot = int.from_bytes(drawn, "big")
        if lot * PPM < self.share_ppm << 8 * DRAW_BYTES:
            self._drawn.append(leaf)
            return
        # Negative, because a heap gives away its smallest: here the farthest one has to go.
        entry = (-lot, -leaf.seq, leaf)
        if len(self._nearest) < SAMPLE_RECORDS_MIN:
            heappush(self._nearest, entry)
        else:
            heappushpop(self._nearest, entry)

    def leaves(self) -> list[Leaf]:
        """The sample, in the order of the log."""
        missing = max(0, SAMPLE_RECORDS_MIN - len(self._drawn))
        nearest = sorted(self._nearest, reverse=True)[:missing]
        return sorted((*self._drawn, *(leaf for _, _, leaf in nearest)), key=lambda leaf: leaf.seq)
