"""The end of an epoch: targets, who was asked, bounties, and rolls that fit the bus."""

from dataclasses import replace
from typing import Any

import msgspec
from tests.makers import MANIFEST, OWNER, ToyKey
from tests.market_makers import ANNA, BERT, CHUTE, MARKET_KEY, offer_of

from penstock.kit.bus_names import MESSAGE_BYTES_MAX
from penstock.market.config import Bounds
from penstock.market.epochs import ROLL_PRESENCES_MAX, Measured, Outcome, close_epoch
from penstock.market.offers import Offers
from penstock.market.policy import DEVICE_CHARS_MAX, HARDWARE_CHARS_MAX
from penstock.market.ports import Chute
from penstock.market.usage import Counted
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import NAME_CHARS_MAX, Claimed, Presence, Target, chute_id
from penstock.spec.params import LOCAL

TARGET = Target(
    chute=CHUTE,
    instances=1,
    serving=1,
    price_ppm=1_000_000,
    bounty_points=0,
    requests=0,
    refused=0,
    busy_us=0,
)
PRESENCE = Presence(
    instance="anna-1",
    miner=ANNA.identity,
    chute=CHUTE,
    device="d",
    hardware="cpu",
    beats_seen=9,
    beats_due=10,
    asked=False,
)


def chute(owner: ToyKey = OWNER, **changes: Any) -> Chute:
    manifest = replace(MANIFEST, owner=owner.identity, **changes)
    return Chute(chute_id(manifest), manifest, sign("manifest", manifest, owner))


def live(*offers: tuple[ToyKey, int], chute_: str = CHUTE) -> Offers:
    """A table with one instance of each key, here since then."""
    table = Offers(Bounds())
    for key, since_ms in offers:
        offer = offer_of(key, chute=chute_)
        table.take(offer, sign("offer", offer, key), owner=key.identity, now_ms=since_ms)
    return table


def close(offers: Offers, *, sponsored: bool = True, **changes: Any) -> Outcome:
    measured = Measured(
        epoch=7,
        chutes=(chute(),),
        usage={},
        presences=(),
        targets={},
        bounties={},
        roomy=frozenset({"anna-1", "bert-1"}),
    )
    return close_epoch(
        replace(measured, **changes), offers, params=LOCAL, is_sponsored=lambda _: sponsored
    )


def test_a_wanted_chute_without_miners_carries_a_bounty_until_somebody_comes() -> None:
    outcome = close(live())
    (target,) = outcome.targets.targets
    assert (target.instances, target.serving, target.bounty_points) == (1, 0, LOCAL.bounty_points)
    assert outcome.bounties == {CHUTE: LOCAL.bounty_points}
    assert outcome.targets.epoch == outcome.rolls[0].epoch == 7


def test_the_miner_who_came_first_and_stayed_claims_the_bounty() -> None:
    outcome = close(live((BERT, 5), (ANNA, 9)), bounties={CHUTE: 100})
    assert outcome.rolls[0].bounties == (Claimed(BERT.identity, CHUTE, 100),)
    assert outcome.bounties == {}


def test_of_two_who_came_at_once_the_lower_name_claims() -> None:
    outcome = close(live((BERT, 5), (ANNA, 5)), bounties={CHUTE: 100})
    assert [one.miner for one in outcome.rolls[0].bounties] == [ANNA.identity]


def test_an_unclaimed_bounty_is_claimed_by_nobody() -> None:
    assert close(live(), bounties={CHUTE: 100}).rolls[0].bounties == ()


def test_the_target_in_force_says_who_was_asked() -> None:
    both = (PRESENCE, replace(PRESENCE, instance="bert-1", miner=BERT.identity))
    outcome = close(live((BERT, 5), (ANNA, 9)), presences=both, targets={CHUTE: TARGET})
    assert [one.asked for one in outcome.rolls[0].presences] == [False, True]
    more = replace(TARGET, instances=2)
    outcome = close(live((BERT, 5), (ANNA, 9)), presences=both, targets={CHUTE: more})
    assert [one.asked for one in outcome.rolls[0].presences] == [True, True]


def test_before_the_first_target_the_manifests_minimum_is_asked_for() -> None:
    asked = close(live((ANNA, 1)), presences=(PRESENCE,)).rolls[0].presences
    assert [one.asked for one in asked] == [True]
    unsponsored = close(live((ANNA, 1)), presences=(PRESENCE,), sponsored=False)
    assert [one.asked for one in unsponsored.rolls[0].presences] == [False]


def test_who_is_gone_or_never_had_room_was_not_standing_by() -> None:
    gone = close(live(), presences=(PRESENCE,), targets={CHUTE: TARGET})
    full = close(live((ANNA, 1)), presences=(PRESENCE,), targets={CHUTE: TARGET}, roomy=frozenset())
    for outcome in (gone, full):
        assert [one.asked for one in outcome.rolls[0].presences] == [False]


def test_a_presence_of_a_chute_that_is_not_known_is_listed_and_not_asked() -> None:
    odd = replace(PRESENCE, chute="sha256:gone")
    assert close(live(), presences=(odd,)).rolls[0].presences == (odd,)


def test_usage_moves_the_target_of_a_chute() -> None:
    busy = {CHUTE: Counted(requests=10, refused=3, busy_us=5)}
    outcome = close(live((ANNA, 1)), usage=busy, targets={CHUTE: TARGET})
    (target,) = outcome.targets.targets
    assert (target.instances, target.requests, target.refused) == (2, 10, 3)


def test_an_unsponsored_minimum_is_not_asked_for_but_demand_is() -> None:
    assert close(live(), sponsored=False).targets.targets == ()
    wanted = close(live(), sponsored=False, usage={CHUTE: Counted(requests=1, refused=1)})
    (target,) = wanted.targets.targets
    assert (target.chute, target.instances) == (CHUTE, 1)


def test_an_older_manifest_of_a_name_fades_out() -> None:
    newer = chute(instances_max=9)
    busy = replace(TARGET, busy_us=3 * LOCAL.epoch_ms * 1000)
    first = close(live(), chutes=(chute(), newer), targets={CHUTE: busy}).targets.targets
    assert {one.chute: one.instances for one in first} == {CHUTE: 1, newer.chute: 1}
    second = close(
        live(), chutes=(chute(), newer), targets={one.chute: one for one in first}
    ).targets.targets
    assert {one.chute: one.instances for one in second} == {newer.chute: 1}


def test_the_largest_roll_goes_in_parts_that_fit_the_bus() -> None:
    wide = replace(
        PRESENCE,
        miner="ed25519:" + "f" * 64,
        chute="sha256:" + "f" * 64,
        device="f" * DEVICE_CHARS_MAX,
        hardware="\u00e9" * HARDWARE_CHARS_MAX,
        beats_due=10**6,
    )
    many = tuple(
        replace(wide, instance=f"{n:0{NAME_CHARS_MAX}}") for n in range(ROLL_PRESENCES_MAX + 1)
    )
    first, second = close(live(), presences=many, bounties={CHUTE: 1}).rolls
    assert [len(first.presences), len(second.presences)] == [ROLL_PRESENCES_MAX, 1]
    assert second.bounties == ()
    signed = sign("roll", first, MARKET_KEY)
    said = {"kind": "roll", "id": "roll/1", "body": to_plain(signed)}
    assert len(msgspec.json.encode(said)) <= MESSAGE_BYTES_MAX


def test_an_epoch_of_nobody_still_has_a_roll() -> None:
    (roll,) = close(live(), chutes=()).rolls
    assert (roll.presences, roll.bounties) == ((), ())
