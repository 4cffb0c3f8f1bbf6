"""Quota and disk: what leaves for whom, and what is said when nothing may leave."""

import errno
import os
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import REPO, Hub, gguf, running, safetensors, sha
from tests.adapters.weights.makers import folder_digest, hub_file, weights_of

from penstock.adapters.weights.errors import DiskFailed, DiskShort, QuotaReached
from penstock.adapters.weights.part import Part
from penstock.adapters.weights.room import Bounds, disk_free_bytes

SIZE = 1_000_000
MODELS = {f"{name}.gguf": gguf(SIZE, seed=place) for place, name in enumerate("abcd")}
A, B, C, D = MODELS.values()


def is_here(root: Path, data: bytes) -> bool:
    return (root / "sha256" / sha(data)[:2] / sha(data)).exists()


async def test_the_least_recently_used_leaves_for_the_new_one(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(2 * SIZE, 0))
        for name, data in (("a", A), ("b", B), ("a", A), ("c", C)):
            await weights.fetch(hub_file(f"{name}.gguf"), sha(data))
        assert [is_here(tmp_path, data) for data in (A, B, C)] == [True, False, True]


async def test_what_an_instance_holds_stays_and_the_other_leaves(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(2 * SIZE, 0))
        await weights.fetch(hub_file("a.gguf"), sha(A), holder="m/1")
        await weights.fetch(hub_file("b.gguf"), sha(B))
        await weights.fetch(hub_file("c.gguf"), sha(C))
        assert [is_here(tmp_path, data) for data in (A, B, C)] == [True, False, True]


async def test_when_all_is_held_the_quota_says_so_and_nothing_is_lost(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(2 * SIZE, 0))
        await weights.fetch(hub_file("a.gguf"), sha(A), holder="m/1")
        await weights.fetch(hub_file("b.gguf"), sha(B), holder="m/2")
        with pytest.raises(QuotaReached, match=r"weights\.quota_bytes") as caught:
            await weights.fetch(hub_file("c.gguf"), sha(C), holder="m/3")
        assert caught.value.pinned_bytes == 2 * SIZE
        assert not hub.gets(f"/cdn/{sha(C)}")
        assert not weights.store.holders(sha(C))
        weights.store.unpin(sha(A), "m/1")
        await weights.fetch(hub_file("c.gguf"), sha(C), holder="m/3")
        assert [is_here(tmp_path, data) for data in (A, B, C)] == [False, True, True]


async def test_a_model_larger_than_the_quota_drives_nobody_out(tmp_path: Path) -> None:
    async with running(Hub({**MODELS, "big.gguf": gguf(3 * SIZE)})) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(2 * SIZE, 0))
        await weights.fetch(hub_file("a.gguf"), sha(A))
        with pytest.raises(QuotaReached):
            await weights.fetch(hub_file("big.gguf"), sha(gguf(3 * SIZE)))
        assert is_here(tmp_path, A)


async def test_what_the_new_model_shares_with_an_old_one_does_not_leave(tmp_path: Path) -> None:
    shared = safetensors(SIZE)
    old = {"m.safetensors": shared, "config.json": b"{}"}
    new = {"m.safetensors": shared, "config.json": b'{"new":1}'}
    async with running(Hub(old)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(SIZE + 1_000, 0))
        await weights.fetch(f"hf:{REPO}", folder_digest(old))
        hub.files = new
        hub.asked.clear()
        await weights.fetch(f"hf:{REPO}", folder_digest(new))
        assert not hub.gets("/cdn/")


async def test_a_small_disk_makes_room_before_a_byte_comes(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(
            tmp_path,
            hub,
            bounds=Bounds(1 << 40, 500_000),
            free_bytes=lambda _: 1_000_000 if is_here(tmp_path, A) else 2_000_000,
        )
        await weights.fetch(hub_file("a.gguf"), sha(A))
        await weights.fetch(hub_file("b.gguf"), sha(B))
        assert [is_here(tmp_path, data) for data in (A, B)] == [False, True]


async def test_a_disk_with_nothing_to_give_says_how_much_is_missing(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(1 << 40, 500), free_bytes=lambda _: SIZE)
        with pytest.raises(DiskShort, match="df -h") as caught:
            await weights.fetch(hub_file("a.gguf"), sha(A))
        assert (caught.value.needed_bytes, caught.value.free_bytes) == (SIZE + 500, SIZE)
        assert not hub.gets("/cdn/")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_disk_that_fails_while_we_write_gives_its_room_back(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's error is played: a full disk of one's own needs root."""

    def full(part: Part, _pieces: list[bytes]) -> None:
        os.pwrite(part._handle, b"some", 0)
        raise OSError(number, os.strerror(number))

    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub)
        monkeypatch.setattr(Part, "append", full)
        kind = DiskFailed if number == errno.EIO else DiskShort
        with pytest.raises(kind, match="df -h"):
            await weights.fetch(hub_file("a.gguf"), sha(A), holder="m/1")
        assert list((tmp_path / "partial").iterdir()) == []
        monkeypatch.undo()
        path = await weights.fetch(hub_file("a.gguf"), sha(A))
        assert path.read_bytes() == A


async def test_a_dead_fetch_is_thrown_out_before_a_model_is(tmp_path: Path) -> None:
    async with running(Hub(MODELS)) as hub:
        weights = weights_of(tmp_path, hub, bounds=Bounds(2 * SIZE, 0))
        (tmp_path / "partial" / sha(b"left behind")).write_bytes(bytes(SIZE))
        os.utime(tmp_path / "partial" / sha(b"left behind"), (1, 1))
        await weights.fetch(hub_file("a.gguf"), sha(A))
        await weights.fetch(hub_file("b.gguf"), sha(B))
        assert is_here(tmp_path, A)
        assert list((tmp_path / "partial").iterdir()) == []


def test_the_disk_is_asked_for_what_this_user_may_write(tmp_path: Path) -> None:
    assert disk_free_bytes(tmp_path) > 0
