"""Does a server keep what one payer's requests left in its prefix cache from another's?

Told by the counts of cached tokens in its answers: a server that does not tell them cannot be seen to
keep payers apart, and so is not taken to.
"""

from dataclasses import dataclass

from penstock.adapters.engines.asker import Asker, Checks, chat_body, decoded, dig
from penstock.kit.engine import Capability

QUESTION = "Tell me all about the rivers, the hills and the long roads between them. "
OTHER_QUESTION = "A fox, a hound and seven geese went to the market to buy bread and salt. "
TIMES, LONG_TIMES = 3, 9
"""vLLM caches whole blocks, of 16 tokens on cards and of 128 on processors."""
CACHED_MIN = 16
"""What two questions have in common by the template alone is less."""


@dataclass(frozen=True, slots=True)
class CacheProbe:
    """Asked of a server that can chat."""

    asker: Asker

    def salts(self) -> Checks:
        return {Capability.CACHE_SALT: self.sees_salt}

    def slots(self) -> Checks:
        return {Capability.CACHE_SLOTS: self.sees_slots}

    async def sees_salt(self) -> bool:
        """Found again under the same salt, and not under another one."""
        question = QUESTION * LONG_TIMES
        await self.cached(question, cache_salt="probe-1")
        again = await self.cached(question, cache_salt="probe-1")
        other = await self.cached(question, cache_salt="probe-2")
        return again >= CACHED_MIN > other

    async def sees_slots(self) -> bool:
        """Found again in the same slot, not where it is forgone, and nowhere once it was replaced."""
        question, other = QUESTION * TIMES, OTHER_QUESTION * TIMES
        await self.cached(question, id_slot=0, cache_prompt=False)
        again = await self.cached(question, id_slot=0, cache_prompt=True)
        forgone = await self.cached(question, id_slot=0, cache_prompt=False)
        await self.cached(other, id_slot=0, cache_prompt=False)
        replaced = await self.cached(question, id_slot=0, cache_prompt=True)
        return again >= CACHED_MIN and not forgone and replaced < CACHED_MIN

    async def cached(self, question: str, **fields: object) -> int:
        """The prompt's tokens that were found in the cache; 0 where it does not say."""
        body = chat_body(question, max_tokens=1, **fields)
        usage = dig(decoded(await self.asker.post("/v1/chat/completions", body)), "usage")
        count = dig(usage, "prompt_tokens_details", "cached_tokens")
        return count if type(count) is int else 0
