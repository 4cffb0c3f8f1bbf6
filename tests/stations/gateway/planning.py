"""A planner with a directory that tests fill: chutes, offers, requests."""

import json
from dataclasses import replace
from random import Random
from typing import Any

from tests.makers import MANIFEST, MINER, OWNER, ToyKey, make_offer, toy_verify
from tests.stations.gateway.world import as_json

from penstock.gateway.bodies import Call, parse_body
from penstock.gateway.config import Bounds
from penstock.gateway.demand import Demand
from penstock.gateway.directory import CHUTES, OFFERS, Directory
from penstock.gateway.instances import Instance
from penstock.gateway.plan import Plan, Planner
from penstock.gateway.wants import wants_of
from penstock.kit.metrics import Metrics
from penstock.sim.bus import MemoryBus
from penstock.spec.keys import sign
from penstock.spec.messages import Manifest, chute_id
from penstock.spec.params import LOCAL

CHAT = "/v1/chat/completions"


class StandingClock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.ms = 2_000

    def now_ms(self) -> int:
        return self.ms

    def mono_us(self) -> int:
        return self.ms * 1_000


class Place:
    """A planner in a market that the test makes."""

    def __init__(self, seed: int = 1, aliases: dict[str, str] | None = None) -> None:
        self.clock = StandingClock()
        self.directory = Directory(
            clock=self.clock,
            verify=toy_verify,
            params=LOCAL,
            bounds=Bounds(),
            metrics=Metrics(),
        )
        chance = Random(seed)
        self.planner = Planner(
            directory=self.directory,
            demand=Demand(board=MemoryBus(), name="g"),
            clock=self.clock,
            entropy=chance.randbytes,
            bounds=Bounds(),
            aliases=aliases,
        )

    def chute(self, name: str = "tiny-chat", **changes: Any) -> str:
        """A chute on the board; returns its id."""
        manifest: Manifest = replace(MANIFEST, name=name, **changes)
        chute = chute_id(manifest)
        data = as_json(sign("manifest", manifest, OWNER))
        self.directory.take(CHUTES, chute.removeprefix("sha256:"), data)
        return chute

    def offer(self, name: str, chute: str, *, miner: ToyKey = MINER, **changes: Any) -> Instance:
        """An instance of it."""
        offer = make_offer(instance=name, chute=chute, **{"room": 8, **changes})
        if miner is not MINER:
            from penstock.spec.canon import from_plain
            from penstock.spec.messages import Offer

            body = replace(from_plain(Offer, offer.body), miner=miner.identity)
            offer = sign("offer", body, miner)
        self.directory.take(OFFERS, name, as_json(offer))
        return next(one for one in self.directory.instances(chute) if one.name == name)

    def plan(self, text: str = "hi", *, tier: str = "", **fields: Any) -> Plan:
        """The plan of one chat request."""
        call = ask(text, **fields)
        return self.planner.plan(call, wants_of(call.provider, tier))


def ask(text: str = "hi", **fields: Any) -> Call:
    """A chat request."""
    body = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 10,
        **fields,
    }
    return parse_body(CHAT, json.dumps(body).encode())


def names(plan: Plan) -> list[str]:
    return [one.name for one in plan.instances]
