"""The market's store on a real PostgreSQL with several markets on it at once, and over a restart."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from tests.contract.test_market_store import OTHER, chute, words
from tests.makers import MANIFEST, OWNER, ToyKey

from penstock.adapters.postgres import Database, read_schema
from penstock.market.errors import NameTaken
from penstock.market.ports import Chute
from penstock.market.store import PostgresMarketStore
from penstock.sim.stores_market import MemoryMarketStore

MARKETS = 3


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[PostgresMarketStore]]:
    """Several markets' stores over one database, each with connections of its own."""
    admin = await asyncpg.connect(postgres_url)
    name = f"test_{uuid.uuid4().hex}"
    url = postgres_url.replace("/penstock?", f"/{name}?")
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        async with AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(Database(url)) for _ in range(MARKETS)]
            schema = read_schema("penstock.market.schema")
            await asyncio.gather(*(one.migrate("penstock.market", schema) for one in databases))
            yield [PostgresMarketStore(one) for one in databases]
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def race(stores: list[PostgresMarketStore], some: list[Chute]) -> list[object]:
    """Publish all of these at once, spread over the markets."""
    return list(
        await asyncio.gather(
            *(stores[n % len(stores)].add_chute(one) for n, one in enumerate(some)),
            return_exceptions=True,
        )
    )


async def test_one_manifest_published_everywhere_at_once_is_new_once(
    stores: list[PostgresMarketStore],
) -> None:
    said = await race(stores, [chute()] * 9)
    assert sorted(said, key=str) == [False] * 8 + [True]
    for store in stores:
        assert await store.chutes() == (chute(),)


async def test_a_name_race_has_one_winner_and_every_later_version_is_its(
    stores: list[PostgresMarketStore],
) -> None:
    """Each owner publishes two manifests under one name at once: all of one owner's, none else."""
    owners = [ToyKey(f"owner-{number}") for number in range(4)]
    some = [chute(owner, instances_max=most) for most in (5, 6) for owner in owners]
    said = await race(stores, some)
    kept = await stores[0].chutes()
    assert len({one.manifest.owner for one in kept}) == 1
    assert len(kept) == said.count(True) == 2
    assert sum(isinstance(one, NameTaken) for one in said) == 6
    winner = kept[0].manifest.owner
    for owner in owners:
        if owner.identity == winner:
            assert await stores[1].add_chute(chute(owner, instances_max=7))
        else:
            with pytest.raises(NameTaken):
                await stores[1].add_chute(chute(owner, instances_max=7))


async def test_names_taken_both_ways_at_once_never_lock_each_other_out(
    stores: list[PostgresMarketStore],
) -> None:
    names = [f"name-{number}" for number in range(6)]
    forwards = [chute(OWNER, name=name) for name in names]
    backwards = [chute(OTHER, name=name) for name in reversed(names)]
    async with asyncio.timeout(60):
        said = await race(stores, [*forwards, *backwards])
    assert said.count(True) == len(names)
    assert sum(isinstance(one, NameTaken) for one in said) == len(names)


async def test_of_two_closings_of_one_epoch_the_first_stands_with_its_bounties(
    stores: list[PostgresMarketStore],
) -> None:
    """Words and bounties are one write: never the words of one market and the bounties of another."""
    names = [f"sha256:{number}" for number in range(MARKETS)]
    await asyncio.gather(
        *(
            store.save_epoch(words(7), bounties={name: number + 1})
            for number, (store, name) in enumerate(zip(stores, names, strict=True))
        )
    )
    found = await stores[0].bounties()
    assert len(found) == 1
    (name,) = found
    assert found[name] == names.index(name) + 1
    assert await stores[1].pending() == (words(7),)


async def test_marking_published_while_another_epoch_is_saved_loses_neither(
    stores: list[PostgresMarketStore],
) -> None:
    for epoch in range(5):
        await stores[0].save_epoch(words(epoch), bounties={})
    await asyncio.gather(
        *(stores[1].mark_published(epoch) for epoch in range(0, 5, 2)),
        *(stores[2].save_epoch(words(epoch), bounties={}) for epoch in (5, 6)),
    )
    assert [one.epoch for one in await stores[0].pending()] == [1, 3, 5, 6]
    assert await stores[0].newest() == words(6)


async def test_a_bounty_without_points_is_refused_with_all_of_its_epoch(
    stores: list[PostgresMarketStore],
) -> None:
    await stores[0].save_epoch(words(7), bounties={"sha256:a": 5})
    with pytest.raises(asyncpg.CheckViolationError):
        await stores[0].save_epoch(words(8), bounties={"sha256:b": 0})
    assert await stores[1].newest() == words(7)
    assert await stores[1].bounties() == {"sha256:a": 5}


async def test_both_stores_tell_the_same_story_step_by_step(
    stores: list[PostgresMarketStore],
) -> None:
    memory = MemoryMarketStore()
    some = [chute(name=name) for name in ("b", "a", "c")] + [chute(name="b", instances_max=9)]
    for epoch, one in enumerate(some):
        for store in (stores[0], memory):
            assert await store.add_chute(one)
            await store.save_epoch(words(epoch), bounties={one.chute: epoch + 1})
            await store.mark_published(epoch - 1)
        assert await stores[1].chutes() == await memory.chutes()
        assert await stores[1].bounties() == await memory.bounties()
        assert await stores[1].pending() == await memory.pending()
        assert await stores[1].newest() == await memory.newest()
    assert [one.manifest.name for one in await memory.chutes()] == ["b", "a", "c", "b"]
    assert MANIFEST.name not in {one.manifest.name for one in await stores[2].chutes()}
