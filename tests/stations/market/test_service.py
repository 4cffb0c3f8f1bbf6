"""The market as a whole, on virtual time: what callers see, what the log gets, what survives."""

import asyncio
from typing import Any

import pytest
from tests.makers import MANIFEST, toy_verify
from tests.market_makers import (
    ANNA,
    BERT,
    CHUTE,
    EPOCH_MS,
    MARKET_KEY,
    World,
    chute_of,
    in_world,
    manifest_of,
    plain,
)

from penstock.kit.tasks import Scope
from penstock.market.config import Bounds
from penstock.market.errors import (
    BadManifest,
    BadOffer,
    ChuteUnknown,
    MarketFull,
    NameTaken,
    StaleOffer,
    Unavailable,
)
from penstock.market.service import UNSAVED_MAX, Rules
from penstock.spec.canon import from_plain
from penstock.spec.keys import open_signed, parse_signed, sign
from penstock.spec.messages import Roll, Targets
from penstock.spec.params import LOCAL

OFFER_KEY = "offers.anna-1"
CHUTE_KEY = f"chutes.{CHUTE.removeprefix('sha256:')}"


def roll_of(world: World, epoch: int) -> Roll:
    return from_plain(Roll, dict(world.logged())[f"roll/{epoch}"])


def targets_of(world: World, epoch: int) -> Targets:
    return from_plain(Targets, dict(world.logged())[f"targets/{epoch}"])


class TestManifests:
    def test_a_manifest_is_kept_shown_and_logged_once(self) -> None:
        async def story(world: World) -> None:
            again, created = await world.market.publish(manifest_of())
            assert (again.chute, created) == (CHUTE, False)
            assert world.board()[CHUTE_KEY] == plain(manifest_of())
            assert [entry for entry, _ in world.logged()] == [f"manifest/{CHUTE}"]

        in_world(story)

    def test_a_name_belongs_to_its_first_owner(self) -> None:
        async def story(world: World) -> None:
            with pytest.raises(NameTaken):
                await world.market.publish(manifest_of(ANNA))

        in_world(story)

    def test_the_newest_manifest_is_what_a_name_means_also_after_an_old_one_is_sent_again(
        self,
    ) -> None:
        async def story(world: World) -> None:
            newer, created = await world.market.publish(manifest_of(instances_max=9))
            assert created
            await world.market.publish(manifest_of())
            assert world.market.catalogue.is_newest(newer)
            changes = [key async for key in first_two(world)]
            assert changes[-1] == f"chutes.{newer.chute.removeprefix('sha256:')}"

        async def first_two(world: World) -> Any:
            seen = 0
            async for key, _ in world.bus.watch("chutes"):
                yield key
                seen += 1
                if seen == 2:
                    return

        in_world(story)

    def test_what_does_not_hold_is_refused(self) -> None:
        async def story(world: World) -> None:
            foreign = sign("manifest", MANIFEST, ANNA)
            for bad in (foreign, manifest_of(name="Bad Name"), manifest_of(instances_min=-1)):
                with pytest.raises(BadManifest):
                    await world.market.publish(bad)

        in_world(story)

    def test_the_catalogue_is_bounded_in_all_and_by_owner(self) -> None:
        async def story(world: World) -> None:
            await world.market.publish(manifest_of(name="second"))
            with pytest.raises(MarketFull, match="one owner"):
                await world.market.publish(manifest_of(name="third"))
            await world.market.publish(manifest_of(ANNA, name="annas"))
            with pytest.raises(MarketFull, match="3 chutes"):
                await world.market.publish(manifest_of(BERT, name="berts"))
            assert len(world.market.catalogue) == 3

        in_world(story, rules=Rules(bounds=Bounds(chutes_max=3, owner_chutes_max=2)))

    def test_a_store_or_bus_that_is_away_is_said_and_the_next_try_completes_it(self) -> None:
        async def story(world: World) -> None:
            fresh = manifest_of(name="fresh")
            world.store.down = True
            with pytest.raises(Unavailable, match="database"):
                await world.market.publish(fresh)
            world.store.down, world.bus.down = False, True
            with pytest.raises(Unavailable, match="bus"):
                await world.market.publish(fresh)
            world.bus.down = False
            assert await world.market.publish(fresh) == (
                world.market.catalogue.get(chute_of(fresh)),
                False,
            )
            assert f"manifest/{chute_of(fresh)}" in dict(world.logged())

        in_world(story)


class TestOffers:
    def test_an_offer_stands_on_the_board_until_it_expires(self) -> None:
        async def story(world: World) -> None:
            signed = world.offer()
            await world.market.offer(signed, delegation=None)
            assert world.board()[OFFER_KEY] == plain(signed)
            await asyncio.sleep(LOCAL.offer_ttl_ms / 1000)
            await world.market.beat()
            assert OFFER_KEY in world.board()
            await asyncio.sleep(0.002)
            await world.market.beat()
            assert OFFER_KEY not in world.board()

        in_world(story)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"chute": "sha256:none"}, ChuteUnknown),
            ({"valid_until_ms": 1}, BadOffer),
            ({"miner": BERT.identity}, BadOffer),
            ({"instance": "a..b"}, BadOffer),
            ({"device": ""}, BadOffer),
        ],
    )
    def test_what_does_not_hold_is_refused_and_not_shown(
        self, changes: dict[str, Any], error: type[Exception]
    ) -> None:
        async def story(world: World) -> None:
            with pytest.raises(error):
                await world.market.offer(world.offer(**changes), delegation=None)
            assert set(world.board()) == {CHUTE_KEY}
            assert len(world.market.offers) == 0

        in_world(story)

    def test_a_stale_offer_is_refused_and_the_same_one_is_shown_again(self) -> None:
        async def story(world: World) -> None:
            first, second = world.offer(), world.offer()
            world.bus.down = True
            with pytest.raises(Unavailable):
                await world.market.offer(second, delegation=None)
            world.bus.down = False
            await world.market.offer(second, delegation=None)
            assert world.board()[OFFER_KEY] == plain(second)
            with pytest.raises(StaleOffer):
                await world.market.offer(first, delegation=None)

        in_world(story)

    def test_a_withdrawn_instance_leaves_the_board_at_once_and_twice_is_once(self) -> None:
        async def story(world: World) -> None:
            await world.market.offer(world.offer(), delegation=None)
            with pytest.raises(BadOffer, match="room 0"):
                await world.market.withdraw("anna-1", world.offer())
            with pytest.raises(BadOffer, match="room 0"):
                await world.market.withdraw("other", world.offer(room=0))
            with pytest.raises(BadOffer):
                await world.market.withdraw("anna-1", world.offer(BERT, instance="anna-1", room=0))
            for _ in range(2):
                await world.market.withdraw("anna-1", world.offer(room=0))
            assert OFFER_KEY not in world.board()

        in_world(story)

    def test_a_withdrawal_that_the_bus_missed_is_made_up_for(self) -> None:
        async def story(world: World) -> None:
            await world.market.offer(world.offer(), delegation=None)
            world.bus.down = True
            with pytest.raises(Unavailable):
                await world.market.withdraw("anna-1", world.offer(room=0))
            await world.market.beat()
            world.bus.down = False
            assert OFFER_KEY in world.board()
            await world.market.beat()
            assert OFFER_KEY not in world.board()

        in_world(story)

    def test_an_instance_that_came_back_is_not_removed_by_its_old_removal(self) -> None:
        async def story(world: World) -> None:
            await world.market.offer(world.offer(), delegation=None)
            world.bus.down = True
            with pytest.raises(Unavailable):
                await world.market.withdraw("anna-1", world.offer(room=0))
            world.bus.down = False
            await world.market.offer(world.offer(), delegation=None)
            await world.market.beat()
            assert OFFER_KEY in world.board()

        in_world(story)

    def test_one_miner_has_so_many_presences_in_an_epoch(self) -> None:
        async def story(world: World) -> None:
            await world.market.offer(world.offer(), delegation=None)
            with pytest.raises(MarketFull):
                await world.market.offer(world.offer(device="another"), delegation=None)
            live = world.market.offers.get("anna-1")
            assert live is not None
            assert live.offer.device == "device-of-anna"

        in_world(story, rules=Rules(bounds=Bounds(miner_presences_max=1)))


class TestEpochs:
    def test_targets_and_roll_are_signed_shown_and_logged(self) -> None:
        async def story(world: World) -> None:
            epoch = world.market.epoch
            await world.beat_for(60, ANNA)
            world.market.close_epoch()
            await world.market.beat()
            assert [entry for entry, _ in world.logged()][1:] == [
                f"targets/{epoch}",
                f"roll/{epoch}",
            ]
            (one,) = roll_of(world, epoch).presences
            assert (one.beats_seen, one.beats_due, one.asked) == (60, 60, True)
            (target,) = targets_of(world, epoch).targets
            assert (target.instances, target.serving) == (1, 1)
            shown = parse_signed(world.board()["targets"])
            assert shown.signer == MARKET_KEY.identity
            assert open_signed(Targets, shown, kind="targets", verify=toy_verify) == targets_of(
                world, epoch
            )
            assert world.market.epoch == epoch + 1

        in_world(story)

    def test_demand_that_gateways_report_raises_the_target(self) -> None:
        async def story(world: World) -> None:
            epoch = world.market.epoch
            async with Scope() as scope:
                scope.start("market", world.market.run())
                await world.beat_for(3, ANNA)
                await world.count_demand(requests=10, refused=1)
                await world.beat_for(1, ANNA)
                await world.count_demand(requests=30, refused=9)
                await world.bus.put("demand.gateway.bad", b"{")
                await world.beat_for(60, ANNA)
                scope.cancel()
            (target,) = targets_of(world, epoch).targets
            assert (target.requests, target.refused, target.instances) == (30, 9, 2)
            assert world.market.metrics.value("market_demand_bad_total") == 1

        in_world(story)

    def test_a_bounty_is_offered_claimed_and_gone(self) -> None:
        async def story(world: World) -> None:
            epoch = world.market.epoch
            async with Scope() as scope:
                scope.start("market", world.market.run())
                await asyncio.sleep(EPOCH_MS / 1000 + 1)
                await world.beat_for(65, BERT)
                scope.cancel()
            assert targets_of(world, epoch).targets[0].bounty_points == LOCAL.bounty_points
            (claim,) = roll_of(world, epoch + 1).bounties
            assert (claim.miner, claim.points) == (BERT.identity, LOCAL.bounty_points)
            assert await world.store.bounties() == {}

        in_world(story)

    def test_an_unsponsored_chute_is_wanted_by_demand_alone(self) -> None:
        async def story(world: World) -> None:
            epoch = world.market.epoch
            world.market.close_epoch()
            await world.market.beat()
            assert targets_of(world, epoch).targets == ()

        in_world(story, rules=Rules(sponsors=frozenset({ANNA.identity})))

    def test_words_wait_for_a_store_or_bus_that_is_away_and_come_in_order(self) -> None:
        async def story(world: World) -> None:
            epoch = world.market.epoch
            world.store.down = True
            for _ in range(2):
                await asyncio.sleep(EPOCH_MS / 1000)
                world.market.close_epoch()
            await world.market.beat()
            assert world.market.waiting == 2
            world.store.down, world.bus.down = False, True
            await world.market.beat()
            assert world.market.waiting == 0
            world.bus.down = False
            await world.market.beat()
            assert [entry for entry, _ in world.logged()][1:] == [
                f"targets/{epoch}",
                f"roll/{epoch}",
                f"targets/{epoch + 1}",
                f"roll/{epoch + 1}",
            ]
            assert await world.store.pending() == ()
            assert world.market.metrics.value("market_flush_failures_total") == 2

        in_world(story)

    def test_a_store_that_is_away_for_long_costs_the_oldest_words_and_no_memory(self) -> None:
        async def story(world: World) -> None:
            world.store.down = True
            for _ in range(UNSAVED_MAX + 3):
                world.market.close_epoch()
                await asyncio.sleep(EPOCH_MS / 1000)
            assert world.market.waiting == UNSAVED_MAX

        in_world(story)


def test_what_the_market_verified_about_a_device_is_what_the_roll_says() -> None:
    async def story(world: World) -> None:
        await world.beat_for(2, ANNA, hardware="nvidia-b200")
        await world.beat_for(2, BERT, hardware="nvidia-b200")
        outcome = world.market.close_epoch()
        written = {one.miner: one.hardware for one in outcome.rolls[0].presences}
        assert written == {ANNA.identity: "nvidia-h100", BERT.identity: "unproven"}

    proven = {(ANNA.identity, "device-of-anna"): "nvidia-h100"}
    in_world(story, rules=Rules(proven=proven))
