"""The owner's placement decides, and nothing that it does stops the miner from serving."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

from tests.makers import MANIFEST

from penstock.kit.metrics import Metrics
from penstock.miner.choosing import Chooser, Demand, Rendezvous, Situation, rest, sensible
from penstock.miner.placement import Abilities, ChuteView, Patience, Placed, Plan
from penstock.spec.messages import chute_id
from penstock.spec.units import PPM

ABLE = Abilities(
    miner="me",
    wanted=("named",),
    auto=True,
    instances_max=2,
    engines=frozenset({"echo"}),
    hardware=frozenset({"cpu"}),
)


def view(name: str, **changes: Any) -> ChuteView:
    manifest = replace(MANIFEST, name=name, **changes)
    return ChuteView(chute_id(manifest), manifest, wanted_instances=1, servers=())


def situation(*views: ChuteView, placed: tuple[Placed, ...] = ()) -> Situation:
    return Situation(
        abilities=ABLE,
        chutes=views,
        placed=placed,
        miners=("me",),
        patience=Patience(),
        now_ms=0,
        beat_ms=1_000,
    )


class Owned:
    """A placement whose answer is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Situation] = []

    def choose(self, known: Situation) -> Any:
        self.asked.append(known)
        return self.answer(known) if callable(self.answer) else self.answer


A, B, C = view("a"), view("b"), view("c")


async def test_the_owners_plan_is_followed() -> None:
    owned = Owned(Plan(start=((B.chute, True),), stop=(), patience=Patience()))
    chooser = Chooser(Metrics(), owned)
    known = situation(A, B)
    plan = await chooser.choose(known)
    assert plan.start == ((B.chute, True),)
    assert owned.asked == [known]
    assert chooser.why == ""


async def test_without_one_the_default_decides() -> None:
    known = situation(A)
    assert await Chooser(Metrics()).choose(known) == Rendezvous().choose(known)


async def test_an_error_costs_nothing_and_is_said() -> None:
    def fail(_: Situation) -> Plan:
        raise ZeroDivisionError("by nothing")

    metrics = Metrics()
    chooser = Chooser(metrics, Owned(fail))
    known = situation(A)
    assert await chooser.choose(known) == Rendezvous().choose(known)
    assert chooser.why == "ZeroDivisionError: by nothing"
    assert metrics.value("miner_placement_failed_total") == 1


async def test_an_answer_that_is_no_plan_costs_nothing() -> None:
    for answer in (None, 7, ["a"], {"start": ()}):
        chooser = Chooser(Metrics(), Owned(answer))
        known = situation(A)
        assert await chooser.choose(known) == Rendezvous().choose(known)
        assert "no Plan" in chooser.why


async def test_code_that_hangs_is_not_waited_for_and_not_asked_twice() -> None:
    go_on = threading.Event()
    asked = []

    def hang(known: Situation) -> Plan:
        asked.append(known)
        go_on.wait()
        return rest(known)

    chooser = Chooser(Metrics(), Owned(hang), deadline_ms=20)
    known = situation(A)
    for _ in range(3):
        assert await chooser.choose(known) == Rendezvous().choose(known)
    assert len(asked) == 1
    assert "has not come back" in chooser.why
    go_on.set()
    while len(asked) == 1:
        await asyncio.sleep(0)
        await chooser.choose(known)
    assert len(asked) == 2, "once it is back it is asked again"


def test_of_a_strangers_plan_only_what_can_be_done_is_done() -> None:
    here = Placed(instance="i-1", chute=A.chute, auto=True)
    start: Any = (
        ("sha256:unknown", True),
        (B.chute, True),
        (B.chute, True),
        7,
        (),
        (None, None),
        C.chute,
        (view("gpu", hardware="nvidia-h100").chute, True),
    )
    stop: Any = ("i-1", "i-1", "i-of-somebody-else", 4)
    wild = Plan(start=start, stop=stop, patience=Patience())
    known = situation(A, B, C, view("gpu", hardware="nvidia-h100"), placed=(here,))
    plan = sensible(wild, known)
    assert plan.stop == ("i-1",)
    assert plan.start == ((B.chute, True), (C.chute, True))


def test_no_plan_starts_more_than_the_owner_allows() -> None:
    here = Placed(instance="i-1", chute=A.chute, auto=True)
    wish = Plan(start=((B.chute, True), (C.chute, True)), stop=(), patience=Patience())
    assert len(sensible(wish, situation(A, B, C, placed=(here,))).start) == 1


def test_what_is_named_is_not_automatic_whatever_the_plan_says() -> None:
    named = view("named")
    wish = Plan(start=((named.chute, True),), stop=(), patience=Patience())
    assert sensible(wish, situation(named)).start == ((named.chute, False),)


def test_a_situation_says_room_and_demand() -> None:
    here = Placed(instance="i-1", chute=A.chute, auto=True)
    known = replace(situation(A, placed=(here,)), demand={A.chute: Demand(bounty_points=5)})
    assert known.room == 1
    assert known.demand_of(A.chute).bounty_points == 5
    assert known.demand_of("other") == Demand(price_ppm=PPM)
    assert rest(known).stop == ("i-1",)
