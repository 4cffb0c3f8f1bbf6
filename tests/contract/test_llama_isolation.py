"""llama.cpp for real: what one payer asked is not in the cache for another, told by cached tokens."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.engine_makers import DEADLINE_MS, Caller, chat_body, make_world
from tests.makers import MANIFEST, make_order

from penstock.adapters.engines.catalogue import build_engine
from penstock.kit.engine import Capability, Engine, EngineLimits
from penstock.miner.cache_slots import CacheSlots
from penstock.miner.rewrite import prepare

pytestmark = pytest.mark.asyncio(loop_scope="module")

LLAMA = replace(MANIFEST, engine="llamacpp")
SLOTS = 3
COMMON_TOKENS_MAX = 8
"""The head of the chat's template, which all prompts share."""
RIVERS = "Tell me all about the rivers, the hills and the long roads between them. " * 3
GEESE = "A fox, a hound and seven geese went to the market to buy bread and salt. " * 3


@dataclass(slots=True)
class Desk:
    """A started llama.cpp, and the slots as the miner gives them."""

    engine: Engine
    slots: CacheSlots = field(default_factory=lambda: CacheSlots(SLOTS))

    async def cached(self, payer: str, question: str = RIVERS, **fields: Any) -> int:
        """One order from its seat to its end; the tokens that it found in the cache."""
        ready = prepare(
            msgspec.json.encode(chat_body(question, max_tokens=2, **fields)),
            make_order(stream=False, payer_tag=payer),
            manifest=LLAMA,
            model=self.engine.model,
            capabilities=self.engine.capabilities,
            salt_key=b"s" * 32,
        )
        seat = self.slots.take(ready.payer, choices=ready.choices, forgoes=ready.forgoes_cache)
        await self.slots.until_safe(seat)
        reply = await Caller(self.engine).post(ready.engine_path, seat.placed(ready.body))
        self.slots.begun(seat)
        self.slots.give(seat, is_written=True)
        assert reply.status == 200, reply.body
        usage = msgspec.json.decode(reply.body)["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    limits = EngineLimits(slots_max=SLOTS, context_tokens_max=512)
    world = make_world(tmp_path_factory.mktemp("llama"))
    engine = build_engine("llamacpp", "builtin:tiny-chat", limits, world=world)
    await engine.start(deadline_ms=DEADLINE_MS)
    yield engine
    await engine.stop(deadline_ms=DEADLINE_MS)


async def test_its_slots_were_seen_to_keep_apart(engine: Engine) -> None:
    assert Capability.CACHE_SLOTS in engine.capabilities
    assert Capability.CACHE_SALT not in engine.capabilities


async def test_a_payer_finds_their_own_prompt_again(engine: Engine) -> None:
    desk = Desk(engine)
    assert await desk.cached("a") == 0
    assert await desk.cached("a") > COMMON_TOKENS_MAX


async def test_the_same_prompt_of_another_payer_is_not_found(engine: Engine) -> None:
    desk = Desk(engine)
    for _ in range(2):
        await desk.cached("a")
    assert [await desk.cached(payer) for payer in "bcdefg"] == [0] * 6


async def test_nor_is_what_once_was_in_a_slot_and_was_replaced(engine: Engine) -> None:
    """llama.cpp may keep prompts in the machine's memory beside the slots; our worker has it off."""
    desk = Desk(engine)
    await desk.cached("a", RIVERS)
    for _ in range(SLOTS):
        await desk.cached("b", GEESE)
    desk.slots = CacheSlots(SLOTS)
    for payer in ("c", "d", "e"):
        await desk.cached(payer, GEESE)
        assert await desk.cached(payer, RIVERS) <= COMMON_TOKENS_MAX


async def test_the_users_of_one_payer_may_be_kept_apart_too(engine: Engine) -> None:
    desk = Desk(engine)
    await desk.cached("a", cache_salt="one user")
    assert await desk.cached("a", cache_salt="another user") == 0
    assert await desk.cached("a", cache_salt="one user") > COMMON_TOKENS_MAX


async def test_several_choices_leave_nothing_for_others(engine: Engine) -> None:
    desk = Desk(engine)
    await desk.cached("a")
    await desk.cached("b", n=2, temperature=1)
    assert [await desk.cached(payer) for payer in "acd"] == [0] * 3


async def test_many_payers_at_once_find_nothing_of_each_other(engine: Engine) -> None:
    desk = Desk(engine)
    room = asyncio.Semaphore(SLOTS)

    async def ask(payer: str, turn: int) -> int:
        async with room:
            several: dict[str, Any] = {"n": 2, "temperature": 1} if turn % 5 == 4 else {}
            return await desk.cached(payer, **several)

    found = await asyncio.gather(*(ask(f"payer-{turn}", turn) for turn in range(20)))
    assert found == [0] * 20
