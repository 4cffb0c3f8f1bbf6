"""A market that is cut off at every single call of its store or bus says the same in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from tests.makers import toy_verify
from tests.market_makers import (
    ANNA,
    BEAT_MS,
    BERT,
    CHUTE,
    EPOCH_MS,
    MARKET_KEY,
    World,
    chute_of,
    in_world,
    manifest_of,
)

from penstock.kit.ports import BusDown, StoreDown
from penstock.market.ports import EpochWords
from penstock.sim.bus import MemoryBus
from penstock.sim.stores_market import MemoryMarketStore
from penstock.spec.canon import from_plain
from penstock.spec.keys import open_signed, parse_signed
from penstock.spec.messages import Manifest, Roll, Targets

ATTEMPTS_MAX = 6
NEWER = manifest_of(instances_max=5)


@dataclass
class Cut:
    """Counts the calls of a store and its bus; the one chosen fails, before it is kept or after."""

    at: int = 0
    is_kept: bool = False
    calls: int = 0

    def is_now(self) -> bool:
        self.calls += 1
        return self.calls == self.at


class CutStore(MemoryMarketStore):
    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    async def save_epoch(self, words: EpochWords, *, bounties: Mapping[str, int]) -> None:
        is_cut = self._cut.is_now()
        if not is_cut or self._cut.is_kept:
            await super().save_epoch(words, bounties=bounties)
        if is_cut:
            raise StoreDown("cut")

    async def mark_published(self, epoch: int) -> None:
        is_cut = self._cut.is_now()
        if not is_cut or self._cut.is_kept:
            await super().mark_published(epoch)
        if is_cut:
            raise StoreDown("cut")


class CutBus(MemoryBus):
    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        is_cut = self._cut.is_now()
        if not is_cut or self._cut.is_kept:
            await super().publish(subject, data, event_id=event_id)
        if is_cut:
            raise BusDown("cut")

    async def put(self, key: str, value: bytes) -> None:
        is_cut = key == "targets" and self._cut.is_now()
        if not is_cut or self._cut.is_kept:
            await super().put(key, value)
        if is_cut:
            raise BusDown("cut")


def day(cut: Cut, *, is_restarted: bool) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """(what is logged, the board) after two epochs with miners in them."""
    told: list[Any] = []

    async def story(world: World) -> None:
        world.store = CutStore(Cut())
        world.bus = CutBus(Cut())
        world.market = world.new_market()
        await world.market.open()
        await world.market.publish(manifest_of())
        world.store._cut = world.bus._cut = cut
        for _ in range(2):
            await world.beat_for(3, ANNA)
            await world.beat_for(3, ANNA, BERT)
            world.market.close_epoch()
            await flushed(world)
            if is_restarted:
                world.market = world.new_market()
                await opened(world)
            await pass_epoch(world)
        told.extend([world.logged(), world.board()])

    in_world(story, opened=False)
    return told[0], told[1]


async def flushed(world: World) -> None:
    """The market's beats go on until the store and the bus have everything."""
    for _ in range(ATTEMPTS_MAX):
        await world.market.beat()
    assert world.market.waiting == 0
    assert await world.store.pending() == ()


async def opened(world: World) -> None:
    for _ in range(ATTEMPTS_MAX):
        try:
            await world.market.open()
        except (BusDown, StoreDown):
            continue
        return
    raise AssertionError("it never opened")


async def pass_epoch(world: World) -> None:
    """Time without miners up to the next epoch, so that its number differs."""
    left_ms = EPOCH_MS - world.clock.now_ms() % EPOCH_MS
    for _ in range(left_ms // BEAT_MS + 1):
        await world.beat_for(1)
    world.market.epoch = world.clock.now_ms() // EPOCH_MS


@pytest.mark.parametrize("is_restarted", [False, True], ids=["one life", "a life per epoch"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["lost", "kept but not answered"])
def test_a_cut_at_any_call_changes_no_word_of_any_epoch(
    is_restarted: bool,
    is_kept: bool,
) -> None:
    whole = Cut()
    expected = day(whole, is_restarted=is_restarted)
    assert whole.calls >= 8
    for number in range(1, whole.calls + 1):
        cut = Cut(at=number, is_kept=is_kept)
        logged, board = day(cut, is_restarted=is_restarted)
        assert cut.calls >= number
        assert dict(logged) == dict(expected[0]), number
        assert board == expected[1], number


def test_every_word_of_the_log_is_signed_by_the_market_and_named_once() -> None:
    logged, _ = day(Cut(), is_restarted=True)
    names = [name for name, _ in logged if not name.startswith("sha256:")]
    assert len(names) == len(set(names))
    for name, body in logged:
        kind = name.split("/")[0]
        number = name.split("/")[1] if "/" in name else ""
        if kind == "targets":
            assert from_plain(Targets, body).epoch == int(number)
        elif kind == "roll":
            assert from_plain(Roll, body).epoch == int(number)


def test_the_board_of_a_new_bus_is_rebuilt_from_the_store_and_the_miners_beats() -> None:
    """A bus that lost its disk: catalogue and targets come from the store, offers from miners."""

    async def story(world: World) -> None:
        await world.market.publish(NEWER)
        await world.beat_for(2, ANNA, BERT)
        world.market.close_epoch()
        await world.market.beat()
        before = world.board()
        world.bus = MemoryBus()
        world.market = world.new_market()
        await world.market.open()
        rebuilt = world.board()
        assert {key for key in before if not key.startswith("offers.")} == set(rebuilt)
        assert all(rebuilt[key] == before[key] for key in rebuilt)
        await world.beat_for(1, ANNA, BERT)
        assert set(world.board()) == set(before)

    in_world(story)


def test_what_stands_on_the_board_can_be_checked_by_whoever_reads_it() -> None:
    async def story(world: World) -> None:
        await world.market.publish(NEWER)
        world.market.close_epoch()
        await world.market.beat()
        board = world.board()
        for key, value in board.items():
            signed = parse_signed(value)
            if key.startswith("chutes."):
                manifest = open_signed(Manifest, signed, kind="manifest", verify=toy_verify)
                assert signed.signer == manifest.owner
                assert chute_of(signed) == "sha256:" + key.removeprefix("chutes.")
        targets = parse_signed(board["targets"])
        said = open_signed(Targets, targets, kind="targets", verify=toy_verify)
        assert targets.signer == MARKET_KEY.identity
        # The newest manifest of the name is the one whose minimum is asked for.
        assert [one.chute for one in said.targets] == [chute_of(NEWER)]
        assert chute_of(NEWER) != CHUTE

    in_world(story)


def test_a_store_away_for_epochs_gives_them_back_in_their_order() -> None:
    async def story(world: World) -> None:
        first = world.market.epoch
        world.store.down = True
        for _ in range(4):
            world.market.close_epoch()
            await world.market.beat()
            await pass_epoch(world)
        assert world.market.waiting == 4
        world.store.down = False
        await flushed(world)
        targets = [name for name, _ in world.logged() if name.startswith("targets/")]
        assert targets == [f"targets/{first + number}" for number in range(4)]

    in_world(story)
