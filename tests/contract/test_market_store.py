"""One contract for the market's store, kept by the one in memory and by the real one (Postgres)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from tests.makers import MANIFEST, OWNER, ToyKey

from penstock.adapters.postgres import Database, read_schema
from penstock.kit.ports import StoreDown
from penstock.market.errors import NameTaken
from penstock.market.ports import PENDING_MAX, Chute, EpochWords, MarketStore, Word
from penstock.market.store import PostgresMarketStore
from penstock.sim.stores_market import MemoryMarketStore
from penstock.spec.keys import sign
from penstock.spec.messages import Roll, Targets, chute_id

OTHER, KEY = ToyKey("other"), ToyKey("market")


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[MarketStore]:
    if request.param == "memory":
        yield MemoryMarketStore()
        return
    # Not the fixture database_url: an async fixture cannot be asked for inside another one.
    admin = await asyncpg.connect(request.getfixturevalue("postgres_url"))
    name = f"test_{uuid.uuid4().hex}"
    url = request.getfixturevalue("postgres_url").replace("/penstock?", f"/{name}?")
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        async with Database(url) as database:
            await database.migrate("penstock.market", read_schema("penstock.market.schema"))
            yield PostgresMarketStore(database)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def chute(owner: ToyKey = OWNER, **changes: Any) -> Chute:
    manifest = replace(MANIFEST, owner=owner.identity, **changes)
    return Chute(chute_id(manifest), manifest, sign("manifest", manifest, owner))


def words(epoch: int) -> EpochWords:
    targets = sign("targets", Targets(epoch=epoch, targets=()), KEY)
    roll = sign("roll", Roll(epoch=epoch, presences=(), bounties=()), KEY)
    return EpochWords(
        epoch, (Word("targets", f"targets/{epoch}", targets), Word("roll", f"roll/{epoch}", roll))
    )


async def test_a_new_store_knows_nothing(store: MarketStore) -> None:
    assert await store.chutes() == ()
    assert await store.bounties() == {}
    assert await store.newest() is None
    assert await store.pending() == ()


async def test_chutes_come_back_as_signed_and_in_the_order_of_publishing(
    store: MarketStore,
) -> None:
    some = [chute(name=name) for name in ("zebra", "ant", "\u006dole")]
    assert [await store.add_chute(one) for one in some] == [True, True, True]
    assert await store.chutes() == tuple(some)


async def test_a_chute_added_twice_is_there_once(store: MarketStore) -> None:
    assert await store.add_chute(chute())
    assert not await store.add_chute(chute())
    assert len(await store.chutes()) == 1


async def test_a_name_belongs_to_the_owner_who_used_it_first(store: MarketStore) -> None:
    await store.add_chute(chute())
    assert await store.add_chute(chute(instances_max=9))
    with pytest.raises(NameTaken) as refused:
        await store.add_chute(chute(OTHER))
    assert refused.value.name == MANIFEST.name
    assert len(await store.chutes()) == 2


async def test_of_two_owners_at_once_one_gets_the_name(store: MarketStore) -> None:
    said = await asyncio.gather(
        *(store.add_chute(chute(ToyKey(f"owner-{n}"))) for n in range(6)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in said) == ["NameTaken"] * 5 + ["bool"]
    assert len(await store.chutes()) == 1


async def test_an_epoch_is_saved_with_the_bounties_after_it(store: MarketStore) -> None:
    await store.save_epoch(words(7), bounties={"sha256:b": 100, "sha256:a": 5})
    assert await store.newest() == words(7)
    assert await store.bounties() == {"sha256:a": 5, "sha256:b": 100}
    await store.save_epoch(words(8), bounties={})
    assert await store.newest() == words(8)
    assert await store.bounties() == {}


async def test_an_epoch_is_kept_once_as_it_was_said_first(store: MarketStore) -> None:
    await store.save_epoch(words(7), bounties={"sha256:a": 5})
    other = replace(words(7), words=words(7).words[:1])
    await store.save_epoch(other, bounties={"sha256:a": 9})
    assert await store.pending() == (words(7),)
    assert await store.bounties() == {"sha256:a": 5}


async def test_what_is_not_published_waits_oldest_first(store: MarketStore) -> None:
    for epoch in (9, 7, 8):
        await store.save_epoch(words(epoch), bounties={})
    assert [one.epoch for one in await store.pending()] == [7, 8, 9]
    await store.mark_published(8)
    await store.mark_published(8)
    assert [one.epoch for one in await store.pending()] == [7, 9]
    assert await store.newest() == words(9)


async def test_only_so_many_epochs_are_handed_out_at_once(store: MarketStore) -> None:
    for epoch in range(PENDING_MAX + 2):
        await store.save_epoch(words(epoch), bounties={})
    assert [one.epoch for one in await store.pending()] == list(range(PENDING_MAX))


async def test_a_store_in_memory_can_be_taken_away() -> None:
    store = MemoryMarketStore()
    store.down = True
    with pytest.raises(StoreDown):
        await store.chutes()
