"""Offers and manifests: checked again, resolved by name and digest, gone when their time is over."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.makers import MANIFEST, MINER, OWNER, ToyKey, make_offer, toy_verify
from tests.stations.gateway.world import as_json, renamed

from penstock.gateway.config import Bounds
from penstock.gateway.directory import CHUTES, OFFERS, Directory
from penstock.gateway.errors import ModelUnknown
from penstock.gateway.instances import ANSWERS_MIN, REST_MS_MAX, REST_MS_MIN, Instance
from penstock.kit.metrics import Metrics
from penstock.spec.canon import from_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Manifest, Offer, chute_id
from penstock.spec.params import LOCAL


@dataclass
class StandingClock:
    """Time that moves only when told."""

    ms: int = 2_000

    def now_ms(self) -> int:
        return self.ms

    def mono_us(self) -> int:
        return self.ms * 1_000


class Place:
    """A directory with what it was told."""

    def __init__(self, **bounds: Any) -> None:
        self.clock = StandingClock()
        self.metrics = Metrics()
        self.directory = Directory(
            clock=self.clock,
            verify=toy_verify,
            params=LOCAL,
            bounds=Bounds(**bounds),
            metrics=self.metrics,
        )

    def offer(self, key: str = "miner-1", **changes: Any) -> None:
        self.directory.take(OFFERS, key, as_json(make_offer(**changes)))

    def manifest(self, manifest: Manifest, *, key: str = "", signer: ToyKey = OWNER) -> None:
        digest = chute_id(manifest).removeprefix("sha256:")
        data = as_json(sign("manifest", manifest, signer))
        self.directory.take(CHUTES, key or digest, data)

    def served(self, manifest: Manifest = MANIFEST) -> list[str]:
        return [one.offer.instance for one in self.directory.instances(chute_id(manifest))]

    def bad(self, kind: str) -> float:
        return self.metrics.value("gateway_board_bad_total", kind=kind)


def test_a_name_means_its_newest_manifest_and_a_digest_means_itself() -> None:
    place, older, newer = Place(), MANIFEST, renamed("tiny-chat", source="builtin:other")
    place.manifest(older)
    place.manifest(newer)
    resolve = place.directory.resolve
    assert resolve("tiny-chat").manifest == newer
    assert resolve(chute_id(older)).manifest == older
    assert resolve(f"tiny-chat@{chute_id(older)}").manifest == older
    place.directory.take(CHUTES, chute_id(newer).removeprefix("sha256:"), b"")
    assert resolve("tiny-chat").manifest == older


@pytest.mark.parametrize(
    "model", ["huge-chat", "sha256:00", f"other@{chute_id(MANIFEST)}", "tiny-chat@", "@", ""]
)
def test_an_unknown_model_is_answered_with_the_names_that_exist(model: str) -> None:
    place = Place()
    place.manifest(MANIFEST)
    with pytest.raises(ModelUnknown) as caught:
        place.directory.resolve(model)
    assert "tiny-chat" in caught.value.text()


def test_an_offer_serves_until_it_ends_by_our_own_clock() -> None:
    place = Place()
    place.offer(valid_until_ms=5_000)
    place.clock.ms = 5_000
    assert place.served() == ["miner-1"]
    place.clock.ms = 5_001
    assert place.served() == []
    place.clock.ms = 5_001 + LOCAL.offer_ttl_ms
    place.directory.sweep()
    assert place.directory.instances_count == 0


def test_a_removed_offer_serves_no_more() -> None:
    place = Place()
    place.offer()
    place.directory.take(OFFERS, "miner-1", b"")
    place.directory.take(OFFERS, "miner-1", b"")
    assert place.served() == []


def test_a_renewal_keeps_what_was_learned_and_an_older_one_is_ignored() -> None:
    place = Place()
    place.offer(seq=2, room=4)
    place.directory.instances(chute_id(MANIFEST))[0].pace_ns = 77
    place.offer(seq=3, room=2)
    place.offer(seq=1, room=9)
    (one,) = place.directory.instances(chute_id(MANIFEST))
    assert (one.offer.room, one.pace_ns) == (2, 77)
    assert place.bad(OFFERS) == 1


def test_an_instance_that_changes_its_chute_serves_only_the_new_one() -> None:
    place, other = Place(), renamed("other")
    place.offer(seq=1)
    place.offer(seq=2, chute=chute_id(other))
    assert place.served() == []
    assert place.served(other) == ["miner-1"]


def forged(**changes: Any) -> bytes:
    return as_json(replace(make_offer(**changes), signature="0" * 64))


BAD_OFFERS = {
    "no json": b"{",
    "no message": b"[]",
    "a forged signature": forged(),
    "another signer": as_json(sign("offer", from_plain(Offer, make_offer().body), ToyKey("thief"))),
    "an offer that is over": as_json(make_offer(valid_until_ms=1_999)),
    "an offer from the future": as_json(make_offer(issued_ms=9_000, valid_until_ms=20_000)),
    "a negative price": as_json(make_offer(price=replace(MANIFEST.price_max, prompt=-1))),
    "another key": as_json(make_offer(instance="miner-2")),
    "half a number": json.dumps(
        {"kind": "offer", "body": {"x": 0.5}, "signer": "a", "signature": "b"}
    ).encode(),
    "bytes that are no text": b"\xff\xfe",
}


@pytest.mark.parametrize("name", sorted(BAD_OFFERS))
def test_an_offer_that_does_not_hold_is_counted_and_ignored(name: str) -> None:
    place = Place()
    place.directory.take(OFFERS, "miner-1", BAD_OFFERS[name])
    assert place.served() == []
    assert place.bad(OFFERS) == 1


def test_a_manifest_that_does_not_hold_is_counted_and_ignored() -> None:
    place = Place()
    place.manifest(MANIFEST, signer=MINER)
    place.manifest(MANIFEST, key="0" * 64)
    place.manifest(renamed("Bad Name"))
    place.directory.take(CHUTES, "0" * 64, b"{}")
    assert place.directory.names() == []
    assert place.bad(CHUTES) == 4


def test_the_directory_is_bounded() -> None:
    place = Place(instances_max=2, chutes_max=2)
    for number in range(4):
        place.offer(f"miner-{number}", instance=f"miner-{number}")
        place.manifest(renamed(f"chute-{number}"))
    assert place.directory.instances_count == 2
    assert place.directory.names() == ["chute-0", "chute-1"]
    assert place.bad(OFFERS) == place.bad(CHUTES) == 2


def instance(**changes: Any) -> Instance:
    return Instance(offer=from_plain(Offer, make_offer(**changes).body))


def test_the_breaker_opens_after_three_failures_and_rests_longer_each_time() -> None:
    one, now_ms = instance(), 0
    opened = []
    for _ in range(3):
        one.started()
        opened.append(one.failed(now_ms))
    assert opened == [False, False, True]
    rests = [one.broken_until_ms - now_ms]
    for _ in range(4):
        now_ms = one.broken_until_ms
        one.started()
        assert one.failed(now_ms)
        rests.append(one.broken_until_ms - now_ms)
    assert rests == [REST_MS_MIN, 10_000, 20_000, REST_MS_MAX, REST_MS_MAX]


def test_a_half_open_breaker_lets_one_trial_through_and_success_closes_it() -> None:
    one = instance()
    for _ in range(3):
        one.started()
        one.failed(0)
    after_ms = one.broken_until_ms
    assert one.rests_until_ms > after_ms - 1
    assert one.rests_until_ms <= after_ms
    one.started()
    assert one.rests_until_ms > after_ms
    one.succeeded(total_us=1_000, work=10)
    assert one.rests_until_ms <= after_ms
    assert (one.failures, one.rest_ms) == (0, 0)


def test_speed_is_an_average_that_follows() -> None:
    one = instance()
    for total_us in (800, 1_600, 1_600):
        one.started()
        one.succeeded(total_us=total_us, work=8)
    assert one.pace_ns == 166_666
    assert not any(one.paces_ns)
    for _ in range(ANSWERS_MIN):
        one.started()
        one.succeeded(total_us=1_600, work=8)
    assert 190_000 < max(one.paces_ns) < 200_000
    pace_ns = one.pace_ns
    one.started()
    one.succeeded(total_us=5, work=0)
    assert one.pace_ns == pace_ns


def renew(one: Instance, *, room: int, seq: int) -> None:
    one.renewed(from_plain(Offer, make_offer(room=room, seq=seq).body))


def test_our_own_orders_are_not_in_the_room_that_an_offer_names() -> None:
    one = instance(room=4)
    for _ in range(4):
        one.started()
    assert not one.has_room
    renew(one, room=0, seq=2)
    assert (one.room, one.running) == (4, 4)
    assert not one.has_room


def test_slots_that_freed_after_an_offer_was_signed_are_used_before_the_next_one() -> None:
    """An offer that was signed while four of ours ran says no room; by now three have ended."""
    one = instance(room=4)
    for _ in range(4):
        one.started()
    for _ in range(3):
        one.ended()
    renew(one, room=0, seq=2)
    assert one.room == 4
    assert one.has_room


def test_no_more_is_sent_than_an_instance_is_known_to_hold() -> None:
    """The room was named when none of ours ran, and four were sent before the offer came."""
    one = instance(room=4)
    for _ in range(4):
        one.started()
    renew(one, room=4, seq=2)
    assert one.room == 4
    assert not one.has_room


def test_what_runs_all_the_while_and_is_still_not_in_the_way_shows_more_room() -> None:
    one = instance(room=2)
    one.started()
    one.started()
    renew(one, room=1, seq=2)
    renew(one, room=1, seq=3)
    assert one.room == 3
    assert one.has_room
    one.started()
    assert not one.has_room


def test_others_orders_take_room_from_ours() -> None:
    one = instance(room=4)
    renew(one, room=1, seq=2)
    assert one.room == 1


def test_an_order_ends_once() -> None:
    one = instance()
    one.started()
    one.ended()
    with pytest.raises(AssertionError):
        one.ended()
