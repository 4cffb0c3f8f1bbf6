"""One contract for stored cells, blobs and journals: kept by the one in memory and by the real one."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import RunningServer, nats_in

from penstock.adapters.nats_objects import CHUNK_BYTES, chunked
from penstock.adapters.nats_store import NatsStore, StoreLimits
from penstock.kit.clock import SystemClock
from penstock.kit.ports import BlobMissing, BusDown, Conflict, DiskFull
from penstock.sim.stores_blobs import MemoryStore

AnyStore = MemoryStore | NatsStore
DEADLINE_S = 60
HOUR_MS = 3_600_000


@pytest.fixture(params=["memory", "nats"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AnyStore]:
    if request.param == "memory":
        yield MemoryStore(SystemClock())
    else:
        url = request.getfixturevalue("nats_url")
        async with NatsStore(url, entropy=os.urandom) as real:
            yield real


@pytest.fixture
def topic() -> str:
    """A first level of the test's own: the real store is shared by all tests."""
    return f"t{uuid.uuid4().hex}"


async def parts(*given_parts: bytes) -> AsyncIterator[bytes]:
    for part in given_parts:
        yield part


async def whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def swap(store: AnyStore, key: str, value: bytes, revision: int = 0) -> int:
    return await store.swap(key, value, revision=revision, keep_ms=HOUR_MS)


class TestCells:
    async def test_a_cell_is_read_as_it_was_put(self, store: AnyStore, topic: str) -> None:
        assert await store.read(f"{topic}.a") is None
        revision = await swap(store, f"{topic}.a", b"one")
        cell = await store.read(f"{topic}.a")
        assert cell is not None
        assert (cell.key, cell.value, cell.revision) == (f"{topic}.a", b"one", revision)
        assert revision > 0

    async def test_a_change_made_from_an_old_revision_is_refused(
        self, store: AnyStore, topic: str
    ) -> None:
        key = f"{topic}.a"
        first = await swap(store, key, b"one")
        second = await swap(store, key, b"two", first)
        assert second > first
        for stale in (first, 0, second + 1_000):
            with pytest.raises(Conflict):
                await swap(store, key, b"three", stale)
        cell = await store.read(key)
        assert cell is not None
        assert cell.value == b"two"

    async def test_of_many_who_create_or_change_at_once_one_wins(
        self, store: AnyStore, topic: str
    ) -> None:
        key, revision = f"{topic}.lease", 0

        async def claim(name: int) -> int:
            try:
                return await swap(store, key, b"%d" % name, revision)
            except Conflict:
                return 0

        for _ in range(3):
            won = await asyncio.gather(*(claim(name) for name in range(8)))
            assert sum(one > 0 for one in won) == 1
            revision = max(won)
            cell = await store.read(key)
            assert cell is not None
            assert (cell.value, cell.revision) == (b"%d" % won.index(revision), revision)

    async def test_a_removed_cell_is_gone_and_may_be_made_again(
        self, store: AnyStore, topic: str
    ) -> None:
        key = f"{topic}.a"
        revision = await swap(store, key, b"one")
        with pytest.raises(Conflict):
            await swap(store, key, b"", revision + 1_000)
        await swap(store, key, b"", revision)
        assert await store.read(key) is None
        assert await store.under(topic) == []
        assert await swap(store, key, b"two") > revision
        with pytest.raises(Conflict):
            await swap(store, key, b"three")

    async def test_cells_are_listed_below_their_level_only(
        self, store: AnyStore, topic: str
    ) -> None:
        for key in (f"{topic}.b.2", f"{topic}.b.1", f"{topic}.bc.1", f"{topic}.b"):
            await swap(store, key, key.encode())
        listed = await store.under(f"{topic}.b")
        assert [cell.key for cell in listed] == [f"{topic}.b.1", f"{topic}.b.2"]
        assert all(cell.value == cell.key.encode() for cell in listed)
        again = await store.read(f"{topic}.b.1")
        assert again == listed[0]
        assert await store.under(f"{topic}.none") == []

    async def test_a_long_list_is_whole(self, store: AnyStore, topic: str) -> None:
        await asyncio.gather(*(swap(store, f"{topic}.{n:04d}", b"x" * 100) for n in range(300)))
        listed = await store.under(topic)
        assert [cell.key for cell in listed] == [f"{topic}.{n:04d}" for n in range(300)]

    async def test_a_cell_goes_when_its_time_is_over(self, store: AnyStore, topic: str) -> None:
        await store.swap(f"{topic}.a", b"x", revision=0, keep_ms=1_000)
        async with asyncio.timeout(DEADLINE_S):
            while await store.read(f"{topic}.a") is not None:
                await asyncio.sleep(0.1)
        assert await store.under(topic) == []

    async def test_what_is_no_key_or_too_large_is_a_bug_of_the_caller(
        self, store: AnyStore, topic: str
    ) -> None:
        with pytest.raises(ValueError, match="not a subject"):
            await swap(store, f"{topic}.*", b"x")
        with pytest.raises(ValueError, match="too many"):
            await swap(store, f"{topic}.a", bytes(1_000_001))


class TestBlobs:
    @pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 17])
    async def test_a_blob_comes_back_byte_for_byte(
        self, store: AnyStore, topic: str, size: int
    ) -> None:
        data = os.urandom(size)
        cut = size // 3
        stored = await store.store(topic, parts(data[:cut], data[cut:]), keep_ms=HOUR_MS)
        assert stored == size
        assert await whole(store.fetch(topic)) == data

    async def test_an_unknown_or_dropped_blob_is_missing(self, store: AnyStore, topic: str) -> None:
        with pytest.raises(BlobMissing):
            await whole(store.fetch(topic))
        await store.drop(topic)
        await store.store(topic, parts(b"x"), keep_ms=HOUR_MS)
        await store.drop(topic)
        with pytest.raises(BlobMissing):
            await whole(store.fetch(topic))

    async def test_of_an_upload_that_breaks_off_nothing_is_kept(
        self, store: AnyStore, topic: str
    ) -> None:
        async def breaking() -> AsyncIterator[bytes]:
            yield bytes(2 * CHUNK_BYTES)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store.store(topic, breaking(), keep_ms=HOUR_MS)
        with pytest.raises(BlobMissing):
            await whole(store.fetch(topic))

    async def test_a_blob_stored_again_is_the_newer_one(self, store: AnyStore, topic: str) -> None:
        await store.store(topic, parts(b"old"), keep_ms=HOUR_MS)
        await store.store(topic, parts(b"newer"), keep_ms=HOUR_MS)
        assert await whole(store.fetch(topic)) == b"newer"

    async def test_a_blob_dropped_under_its_reader_is_missing(
        self, store: AnyStore, topic: str
    ) -> None:
        await store.store(topic, parts(bytes(2 * CHUNK_BYTES)), keep_ms=HOUR_MS)
        async with aclosing(store.fetch(topic)) as chunks:
            await anext(chunks)
            await store.drop(topic)
            with pytest.raises(BlobMissing):
                await anext(chunks)

    async def test_a_blob_goes_when_its_time_is_over(self, store: AnyStore, topic: str) -> None:
        await store.store(topic, parts(b"x"), keep_ms=1_000)

        async def is_there() -> bool:
            try:
                return await whole(store.fetch(topic)) == b"x"
            except BlobMissing:
                return False

        async with asyncio.timeout(DEADLINE_S):
            while await is_there():
                await asyncio.sleep(0.1)


class TestJournals:
    async def test_entries_come_back_in_their_order_and_whole(
        self, store: AnyStore, topic: str
    ) -> None:
        assert [one async for one in store.replay(topic)] == []
        entries = [os.urandom(size) for size in (1, CHUNK_BYTES + 1, 5, 3 * CHUNK_BYTES)]
        for entry in entries:
            await store.append(topic, entry, keep_ms=HOUR_MS)
        assert [one async for one in store.replay(topic)] == entries

    async def test_two_writers_do_not_mix_their_entries(self, store: AnyStore, topic: str) -> None:
        entries = [bytes([n]) * (2 * CHUNK_BYTES + n) for n in range(6)]
        await asyncio.gather(*(store.append(topic, one, keep_ms=HOUR_MS) for one in entries))
        assert sorted([one async for one in store.replay(topic)]) == entries

    async def test_a_forgotten_journal_is_empty(self, store: AnyStore, topic: str) -> None:
        await store.append(topic, b"x", keep_ms=HOUR_MS)
        await store.append(f"{topic}-other", b"y", keep_ms=HOUR_MS)
        await store.forget(topic)
        assert [one async for one in store.replay(topic)] == []
        assert [one async for one in store.replay(f"{topic}-other")] == [b"y"]


@pytest.fixture(params=["memory", "nats"])
async def small_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStore]:
    """A store of two chunks and a bit."""
    if request.param == "memory":
        yield MemoryStore(SystemClock(), bytes_max=2 * CHUNK_BYTES + 8_192)
        return
    server = RunningServer(nats_in(tmp_path))
    await server.start()
    try:
        limits = StoreLimits(blobs_bytes_max=2 * CHUNK_BYTES + 8_192)
        async with NatsStore(server.url, entropy=os.urandom, limits=limits) as real:
            yield real
    finally:
        await server.stop()


async def test_a_full_store_refuses_and_keeps_what_it_has(
    small_store: AnyStore, topic: str
) -> None:
    first = bytes(CHUNK_BYTES)
    await small_store.store(topic, parts(first), keep_ms=HOUR_MS)
    with pytest.raises(DiskFull):
        await small_store.store(f"{topic}-2", parts(bytes(2 * CHUNK_BYTES)), keep_ms=HOUR_MS)
    with pytest.raises(DiskFull):
        await small_store.append(f"{topic}-3", bytes(2 * CHUNK_BYTES), keep_ms=HOUR_MS)
    assert await whole(small_store.fetch(topic)) == first
    await small_store.forget(f"{topic}-3")
    await small_store.store(f"{topic}-4", parts(first), keep_ms=HOUR_MS)


async def test_a_store_that_is_killed_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    server = RunningServer(nats_in(tmp_path))
    await server.start()
    limits = StoreLimits(call_deadline_ms=30_000)
    try:
        async with NatsStore(server.url, entropy=os.urandom, limits=limits) as store:
            data = os.urandom(3 * CHUNK_BYTES)
            await store.store("blob", parts(data), keep_ms=HOUR_MS)
            await store.append("journal", b"entry", keep_ms=HOUR_MS)
            revision = await swap(store, "cell.a", b"one")
            await server.kill()
            reading = asyncio.gather(
                whole(store.fetch("blob")), swap(store, "cell.a", b"two", revision)
            )
            await server.start()
            assert (await reading)[0] == data
            assert [one async for one in store.replay("journal")] == [b"entry"]
            cell = await store.read("cell.a")
            assert cell is not None
            assert cell.value == b"two"
    finally:
        await server.stop()


async def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    server = RunningServer(nats_in(tmp_path))
    await server.start()
    limits = StoreLimits(call_deadline_ms=300, open_deadline_ms=2_000)
    async with NatsStore(server.url, entropy=os.urandom, limits=limits) as store:
        await server.stop()
        with pytest.raises(BusDown):
            await store.read("cell.a")
        with pytest.raises(BusDown):
            await store.store("blob", parts(b"x"), keep_ms=HOUR_MS)
        with pytest.raises(BusDown):
            await whole(store.replay("journal"))
    with pytest.raises(BusDown):
        await NatsStore(server.url, entropy=os.urandom, limits=limits).open()


@given(st.lists(st.binary(max_size=CHUNK_BYTES // 2 + 1), max_size=9))
async def test_pieces_hold_the_same_bytes(given_parts: list[bytes]) -> None:
    pieces = [piece async for piece in chunked(parts(*given_parts))]
    assert b"".join(pieces) == b"".join(given_parts)
    assert all(len(piece) == CHUNK_BYTES for piece in pieces[:-1])
    assert all(pieces)
