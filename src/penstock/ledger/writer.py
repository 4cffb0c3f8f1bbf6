"""The one hand that writes: look, decide, apply, one decision after another.

Decisions are pure functions on a `Draft`; the writer repeats them when another process was faster.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from penstock.kit.ports import StoreDown
from penstock.ledger.errors import StaleView
from penstock.ledger.policy import Draft
from penstock.ledger.ports import Batches
from penstock.ledger.state import View, Wanted
from penstock.spec.params import Params

ATTEMPTS_MAX = 5

T = TypeVar("T")


class Writer:
    """Serialises all writes of this process, so that a view is rarely stale."""

    def __init__(self, store: Batches, *, params: Params) -> None:
        self.params = params
        self._store = store
        self._turn = asyncio.Lock()

    async def look(self, wanted: Wanted) -> View:
        """A view for reading only. Raises StoreDown."""
        return await self._store.view(wanted)

    async def decide(self, wanted: Wanted, decide: Callable[[Draft], T]) -> T:
        """Run `decide` on a draft over what is wanted, and apply the draft if it changes anything.

        `decide` may run more than once, so it must have no effect but on the draft. What it raises
        comes through, and nothing is written. Raises StoreDown.
        """
        async with self._turn:
            for _ in range(ATTEMPTS_MAX):
                draft = Draft(await self._store.view(wanted), params=self.params)
                answer = decide(draft)
                if draft.is_empty:
                    return answer
                try:
                    await self._store.apply(draft.batch())
                except StaleView:
                    continue
                return answer
        raise StoreDown(f"other writers came first {ATTEMPTS_MAX} times")
