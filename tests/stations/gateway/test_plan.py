"""Plans: models and their fallbacks, conditions and their reasons, decisions and what they say."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.makers import PRICE, ToyKey
from tests.stations.gateway.planning import Place, ask, names

from penstock.gateway.errors import (
    BadRequest,
    GatewayError,
    ModelUnknown,
    NoCapacity,
    NoProvider,
    answer_of,
)
from penstock.gateway.instances import Instance
from penstock.gateway.wants import NO_WANTS
from penstock.kit.spell import spell, spell_digest
from penstock.spec.messages import Modality, Tier
from penstock.spec.routing import EXPLORING, POLICY, check_decision
from penstock.spec.units import Price

CHEAP = replace(PRICE, completion=PRICE.completion // 2)


def measure(one: Instance, *, total_us: int = 1_000, ttft_us: int = 10) -> None:
    one.started()
    one.succeeded(total_us=total_us, work=1_000, ttft_us=ttft_us)


def served(place: Place, *, count: int = 3, **changes: Any) -> tuple[str, list[Instance]]:
    """A chute with so many measured instances `m-0`, `m-1`, ..."""
    chute = place.chute()
    instances = [place.offer(f"m-{number}", chute, **changes) for number in range(count)]
    for one in instances:
        measure(one)
    return chute, instances


def test_a_plan_names_all_that_may_serve_and_holds_the_dearest_that_may_be_asked() -> None:
    place = Place()
    chute, _ = served(place)
    place.offer("cheap", chute, price=CHEAP)
    plan = place.plan()
    assert sorted(names(plan)) == ["cheap", "m-0", "m-1", "m-2"]
    assert plan.chute.chute == chute
    assert plan.present == 4
    tried = plan.instances[:3]
    assert plan.hold_nano == max(plan.bounds.charge_max(one.offer.price) for one in tried)


def test_the_decision_is_spelled_as_the_law_spells_it_and_keeps_its_own_rules() -> None:
    place = Place()
    chute, instances = served(place, count=4)
    place.offer("full", chute, room=0)
    for number in range(60):
        plan = place.plan(f"question {number} " + "x" * 700)
        assert plan.decision_spelled == spell(plan.decision)
        assert plan.decision_digest == spell_digest("decision", plan.decision).hex()
        check_decision(plan.decision)
        assert plan.decision.choice == names(plan)[0]
        reasons = {one.instance: one.reason for one in plan.decision.considered}
        assert reasons["full"] == "no_room"
    assert plan.decision.present == len(instances) + 1


def test_a_decision_of_a_large_field_stays_small_and_draws_widely() -> None:
    place = Place()
    served(place, count=60)
    firsts: Counter[str] = Counter()
    for number in range(300):
        plan = place.plan(f"{number}")
        check_decision(plan.decision)
        assert len(plan.decision.considered) <= 8
        assert len(set(names(plan))) == len(plan.instances) >= 3
        firsts[plan.decision.choice] += 1
    assert len(firsts) > 50


def test_later_turns_stay_with_the_instance_that_has_the_earlier_ones() -> None:
    place = Place()
    served(place, count=5)
    for session in range(20):
        said = f"session {session} " + "begin " * 400
        home = names(place.plan(said))[0]
        for turn in range(4):
            said += f" turn {turn} " + "more " * 200
            plan = place.plan(said)
            assert names(plan)[0] == home
            shown = {one.instance: one.cached_ppm for one in plan.decision.considered}
            assert shown[home] > 500_000
            assert sum(share > 0 for share in shown.values()) == 1


def test_after_a_failover_the_thread_is_at_home_where_it_was_served() -> None:
    place = Place()
    served(place, count=5)
    said = "begin " * 400
    plan = place.plan(said)
    second = plan.instances[1]
    place.planner.moved(plan, second)
    assert names(place.plan(said + "more " * 100))[0] == second.name


def test_a_home_that_is_full_or_resting_is_left() -> None:
    place = Place()
    _, instances = served(place, count=3)
    said = "begin " * 400
    home = place.plan(said).instances[0]
    for _ in range(home.room):
        home.started()
    assert names(place.plan(said + "more"))[0] != home.name
    assert home.name not in names(place.plan(said + "again"))
    assert len(instances) == 3


def test_an_instance_that_nobody_has_measured_is_tried_now_and_then() -> None:
    place = Place()
    chute, instances = served(place, count=3)
    for one in instances:
        measure(one, total_us=1)
    place.offer("new", chute)
    policies: Counter[str] = Counter()
    for number in range(400):
        plan = place.plan(f"{number}")
        check_decision(plan.decision)
        policies[plan.decision.policy] += 1
        if plan.decision.policy == EXPLORING:
            assert plan.decision.choice == "new"
    assert 20 < policies[EXPLORING] < 100


def test_a_model_nobody_knows_and_one_of_another_kind_are_refused() -> None:
    place = Place()
    served(place)
    place.chute("vectors", modality=Modality.EMBEDDINGS)
    with pytest.raises(ModelUnknown):
        place.plan(model="other")
    with pytest.raises(BadRequest, match="serves embeddings"):
        place.plan(model="vectors")


def test_a_list_of_models_is_asked_in_its_order_and_the_rest_is_kept() -> None:
    place = Place()
    chute, _ = served(place)
    other = place.chute("other")
    place.offer("o-1", other)
    empty = place.chute("empty")
    plan = place.plan(model="nobody, empty, other:floor, tiny-chat:nitro")
    assert plan.chute.chute == other
    assert plan.rest == "tiny-chat:throughput"
    again = place.plan(model=plan.rest)
    assert (again.chute.chute, again.rest) == (chute, "")
    assert empty not in {chute, other}


def test_of_a_list_that_nobody_can_serve_want_of_room_is_said_first() -> None:
    place = Place()
    served(place, room=0)
    with pytest.raises(NoCapacity):
        place.plan(model="nobody,tiny-chat")
    with pytest.raises(ModelUnknown):
        place.plan(model="nobody,nothing")


def test_an_alias_stands_for_its_string() -> None:
    place = Place(aliases={"fast": "nobody,tiny-chat:nitro", "penstock/auto": "tiny-chat"})
    served(place)
    assert place.plan(model="fast").decision.policy == POLICY + "/throughput"
    assert place.plan(model="fast:floor").decision.policy == POLICY + "/price"
    assert place.plan(model="penstock/auto").decision.policy == POLICY


def test_the_chute_that_a_string_means_is_the_one_it_names_first() -> None:
    place = Place(aliases={"fast": "tiny-chat:nitro, other"})
    chute, _ = served(place)
    for model in ("fast", "tiny-chat", chute, f"tiny-chat@{chute}:floor"):
        assert place.planner.meant(model).chute == chute
    with pytest.raises(ModelUnknown):
        place.planner.meant("nobody,tiny-chat")


@pytest.mark.parametrize(
    "model", ["tiny-chat:free", "tiny-chat:", "tiny-chat,,other", ",", "a:b:c"]
)
def test_a_model_string_that_means_nothing_is_said_so(model: str) -> None:
    place = Place()
    served(place)
    with pytest.raises(BadRequest) as caught:
        place.plan(model=model)
    assert caught.value.param == "model"


def test_more_models_than_are_tried_are_refused() -> None:
    place = Place()
    with pytest.raises(BadRequest, match="at most"):
        place.plan(model=",".join(f"m{number}" for number in range(9)))


def test_a_pin_names_one_chute_also_with_a_suffix() -> None:
    place = Place()
    older, _ = served(place)
    newer = place.chute(source="builtin:other")
    place.offer("newer", newer)
    assert place.plan().chute.chute == newer
    for model in (older, f"tiny-chat@{older}", f"{older}:floor", f"tiny-chat@{older}:latency"):
        assert place.plan(model=model).chute.chute == older


def test_suffixes_and_sort_choose_by_what_they_say() -> None:
    place = Place()
    chute = place.chute()
    quick = place.offer("quick", chute)
    cheap = place.offer("cheap", chute, price=CHEAP)
    early = place.offer("early", chute)
    place.offer("unknown", chute)
    measure(quick, total_us=10, ttft_us=9)
    measure(cheap, total_us=3_000, ttft_us=9)
    measure(early, total_us=2_000, ttft_us=1)
    for suffix, sort, first in (
        ("floor", "price", "cheap"),
        ("nitro", "throughput", "quick"),
        ("latency", "latency", "early"),
    ):
        assert names(place.plan(model=f"tiny-chat:{suffix}"))[0] == first
        plan = place.plan(provider={"sort": sort})
        assert names(plan)[0] == first
        assert plan.decision.policy == f"{POLICY}/{sort}"
        assert len(plan.instances) == 4
    both = place.plan(model="tiny-chat:nitro", provider={"sort": "price"})
    assert names(both)[0] == "cheap"


def test_order_only_ignore_name_miners_by_identity_or_by_their_instances() -> None:
    place = Place()
    chute = place.chute()
    other = ToyKey("other")
    for name in ("alice-1", "alice-2", "alicent", "bob/a100"):
        measure(place.offer(name, chute))
    measure(place.offer("carol", chute, miner=other))
    planned = {
        "order": names(place.plan(provider={"order": ["bob", "alice"]})),
        "only": names(place.plan(provider={"only": ["Alice"]})),
        "ignore": names(place.plan(provider={"ignore": ["alice", "alicent"]})),
        "identity": names(place.plan(provider={"only": [other.identity]})),
        "exact": names(place.plan(provider={"only": ["bob/a100"]})),
    }
    assert planned["order"][0] == "bob/a100"
    assert sorted(planned["order"][1:3]) == ["alice-1", "alice-2"]
    assert len(planned["order"]) == 5
    assert sorted(planned["only"]) == ["alice-1", "alice-2"]
    assert sorted(planned["ignore"]) == ["bob/a100", "carol"]
    assert planned["identity"] == ["carol"]
    assert planned["exact"] == ["bob/a100"]


def test_without_fallbacks_nobody_else_is_asked() -> None:
    place = Place()
    served(place)
    assert len(place.plan(provider={"allow_fallbacks": False}).instances) == 1
    plan = place.plan(provider={"order": ["m-2", "m-0"], "allow_fallbacks": False})
    assert names(plan) == ["m-2", "m-0"]
    with pytest.raises(NoProvider) as caught:
        place.plan(provider={"order": ["zoe"], "allow_fallbacks": False})
    assert {reason for _, reason in caught.value.candidates} == {"not_in_order"}


def test_a_tier_asks_for_at_least_that_and_privacy_for_the_highest() -> None:
    place = Place()
    chute = place.chute()
    for tier in Tier:
        measure(place.offer(f"{tier.value}-1", chute, tier=tier))
    assert len(place.plan(tier="open").instances) == 3
    assert sorted(names(place.plan(tier="Measured"))) == ["attested-1", "measured-1"]
    for provider in ({"zdr": True}, {"data_collection": "deny"}):
        assert names(place.plan(provider=provider)) == ["attested-1"]
    assert len(place.plan(provider={"data_collection": "allow"}).instances) == 3


def test_a_request_that_no_offer_fits_is_told_why_for_each_and_nobody_is_put_in_their_place() -> (
    None
):
    place = Place()
    served(place)
    with pytest.raises(NoProvider) as caught:
        place.plan(provider={"max_price": {"completion": "0.1"}})
    error = caught.value
    assert error.candidates == (("m-0", "too_dear"), ("m-1", "too_dear"), ("m-2", "too_dear"))
    answer = answer_of(error, "r-1")
    assert answer.status == 404
    assert b'"code":"no_matching_provider"' in answer.body
    assert b'{"instance":"m-0","reason":"too_dear"}' in answer.body
    assert "m-1: too_dear" in error.text()


def test_however_many_do_not_fit_the_answer_names_a_few() -> None:
    place = Place()
    served(place, count=30)
    with pytest.raises(NoProvider) as caught:
        place.plan(tier="attested")
    assert len(caught.value.candidates) == 8
    assert caught.value.present == 30


def test_want_of_room_alone_is_no_refusal_of_the_wish() -> None:
    place = Place()
    _, instances = served(place)
    for one in instances:
        for _ in range(one.room):
            one.started()
    with pytest.raises(NoCapacity):
        place.plan()
    with pytest.raises(NoCapacity):
        place.plan(provider={"only": ["m-1"]})
    with pytest.raises(NoProvider):
        place.plan(provider={"only": ["zoe"]})


def test_nobody_serves_is_want_of_room_too() -> None:
    place = Place()
    place.chute()
    with pytest.raises(NoCapacity) as caught:
        place.plan(provider={"only": ["zoe"]})
    assert caught.value.instances == 0


def test_prices_of_the_request_bound_every_part() -> None:
    place = Place()
    chute, _ = served(place)
    place.offer("cheap", chute, price=CHEAP)
    assert names(place.plan(provider={"max_price": {"completion": 0.1, "prompt": 1}})) == ["cheap"]
    assert len(place.plan(provider={"max_price": {"completion": "0.2"}}).instances) == 4
    assert len(place.plan(provider={"max_price": {}}).instances) == 4


def test_an_offer_above_the_manifests_price_is_never_asked() -> None:
    place = Place()
    chute, _ = served(place)
    dear: Price = replace(PRICE, prompt=PRICE.prompt + 1)
    place.offer("dear", chute, price=dear)
    for number in range(20):
        assert "dear" not in names(place.plan(f"{number}"))
    assert "dear" not in names(place.plan(provider={"order": ["dear"]}))


def test_quantizations_go_by_what_the_manifest_says() -> None:
    place = Place()
    chute = place.chute(source="hf:org/model-Q4_K_M.gguf")
    place.offer("q", chute)
    assert names(place.plan(provider={"quantizations": ["int4", "fp8"]})) == ["q"]
    with pytest.raises(NoProvider) as caught:
        place.plan(provider={"quantizations": ["bf16", "unknown"]})
    assert caught.value.candidates == (("q", "other_quantization"),)


def test_required_parameters_must_all_be_known() -> None:
    place = Place()
    served(place)
    required = {"require_parameters": True}
    assert place.plan(provider=required, temperature=1, tools=[]).instances
    with pytest.raises(NoProvider) as caught:
        place.plan(provider=required, mirostat=2)
    assert {reason for _, reason in caught.value.candidates} == {"parameter_unsupported"}
    assert place.plan(mirostat=2).instances


def test_offers_that_end_are_not_asked() -> None:
    place = Place()
    served(place)
    place.clock.ms = 5_001
    with pytest.raises(NoCapacity):
        place.plan()


def test_every_refusal_is_a_gateway_error_with_a_status() -> None:
    place = Place()
    with pytest.raises(GatewayError) as caught:
        place.planner.plan(ask(), NO_WANTS)
    assert caught.value.status == 404
