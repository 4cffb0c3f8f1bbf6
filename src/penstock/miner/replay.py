"""Orders that were seen, so that none is served twice.

Each is kept until its own deadline, after which it is refused anyway.
"""

from collections import deque
from dataclasses import dataclass, field

ORDERS_MAX = 200_000


@dataclass(slots=True)
class ReplayGuard:
    """A bounded set of order ids."""

    orders_max: int = ORDERS_MAX
    _seen: set[str] = field(default_factory=set)
    _buckets: dict[int, deque[str]] = field(default_factory=dict)

    def has_seen(self, order_id: str) -> bool:
        """Was this order taken before?"""
        return order_id in self._seen

    def is_full(self, *, now_ms: int) -> bool:
        """No room for one more, even after forgetting those whose deadline has passed."""
        if len(self._seen) >= self.orders_max:
            self._forget(now_ms)
        return len(self._seen) >= self.orders_max

    def remember(self, order_id: str, *, deadline_ms: int, now_ms: int) -> None:
        """Keep the id until its deadline. The caller has asked `is_full`."""
        self._forget(now_ms)
        self._seen.add(order_id)
        self._buckets.setdefault(_second(deadline_ms), deque()).append(order_id)

    def __len__(self) -> int:
        return len(self._seen)

    def _forget(self, now_ms: int) -> None:
        """Drop whole seconds that lie behind; there are as many buckets as seconds of lifetime."""
        present = _second(now_ms)
        for second in [second for second in self._buckets if second < present]:
            self._seen.difference_update(self._buckets.pop(second))


def _second(at_ms: int) -> int:
    """The second in which a moment lies; its bucket goes only when the whole second is over."""
    return at_ms // 1000
