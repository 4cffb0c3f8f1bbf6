"""The plan of one request: which chute, which instances, best first, and the most it may cost.

No network and no disk: a plan is made of what the directory and this gateway's own past say. A
request without conditions of its own compares a few instances; one with conditions looks at all of
its chute, and is told the reason of each if none fits. Nothing is ever put in the place of what was
asked for.
"""

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from penstock.gateway.anchors import BYTES_PER_TOKEN, marks_of
from penstock.gateway.bodies import MODALITIES, Call
from penstock.gateway.choice import Asking, Choice, Chooser, Prompt
from penstock.gateway.conditions import arranged, refusal
from penstock.gateway.config import Bounds
from penstock.gateway.demand import Demand
from penstock.gateway.directory import Chute, Directory
from penstock.gateway.errors import BadRequest, ModelUnknown, NoCapacity, NoProvider
from penstock.gateway.instances import Instance
from penstock.gateway.model_strings import ModelStrings, Target
from penstock.gateway.orders import Ceilings, ceilings
from penstock.gateway.wants import NO_WANTS, Sort, Wants
from penstock.kit.ports import Clock, Entropy
from penstock.spec.canon import digest_spelled
from penstock.spec.messages import Modality
from penstock.spec.routing import Decision, Need

SEED_BYTES = 6
SEEDS_BYTES = 6 * 256
"""Chance is fetched for many requests at once."""

_CHAT = Modality.CHAT  # only engines that generate keep prefixes
_BALANCE = Sort.BALANCE


class Plan(msgspec.Struct):
    """One request, placed: `instances` are those to ask, in this order, none twice."""

    call: Call
    chute: Chute
    bounds: Ceilings
    instances: tuple[Instance, ...]
    hold_nano: int
    decision_spelled: bytes
    """The decision's canonical bytes; the order names their digest."""
    decision_digest: str
    present: int
    choice: Choice
    prompt: Prompt
    rest: str = ""
    """The models of the caller's list behind the one that was taken; "" if there are none."""

    @property
    def decision(self) -> Decision:
        """Why these instances, in this order."""
        return self.choice.decision()


class Planner:
    """Makes plans; remembers where prompts went."""

    def __init__(
        self,
        *,
        directory: Directory,
        demand: Demand,
        clock: Clock,
        entropy: Entropy,
        bounds: Bounds,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._demand = demand
        self._clock = clock
        self._entropy = entropy
        self._bounds = bounds
        self._strings = ModelStrings(aliases or {})
        self._chooser = Chooser()
        self._needs: dict[str, Need] = {}
        self._seeds = b""
        self._seeds_at = 0

    def plan(self, call: Call, wants: Wants) -> Plan:
        """Choose. Raises ModelUnknown, BadRequest, NoProvider, NoCapacity.

        Of several models the first that can be served now is taken. If none can, want of room says
        so first, since waiting helps; else the first model's reason stands.
        """
        targets = self._strings.targets(call.model)
        if len(targets) == 1:
            return self._plan(call, targets[0], wants)
        refused: list[ModelUnknown | NoProvider | NoCapacity] = []
        for place, target in enumerate(targets):
            try:
                plan = self._plan(call, target, wants)
            except (ModelUnknown, NoProvider, NoCapacity) as error:
                refused.append(error)
            else:
                plan.rest = ",".join(_string_of(one) for one in targets[place + 1 :])
                return plan
        raise next((one for one in refused if isinstance(one, NoCapacity)), refused[0])

    def meant(self, model: str) -> Chute:
        """The chute that a model string names, or names first. Raises ModelUnknown, BadRequest."""
        return self._directory.resolve(self._strings.targets(model)[0].model)

    def moved(self, plan: Plan, instance: Instance) -> None:
        """Another instance than the first was asked: its cache has the prompt now."""
        for place, one in enumerate(plan.choice.judged):
            if one.instance is instance:
                field = self._directory.field(plan.chute.chute)
                expected = self._chooser.take(field, plan.prompt, plan.choice, place=place)
                instance.expect(plan.decision_digest, expected)
                return

    def _plan(self, call: Call, target: Target, wants: Wants) -> Plan:
        chute = self._directory.resolve(target.model)
        manifest = chute.manifest
        if manifest.modality is not MODALITIES[call.path]:
            raise BadRequest(
                reason=f"{manifest.name!r} serves {manifest.modality.value}, not {call.path}.",
                param="model",
            )
        bounds = ceilings(call, manifest.limits)
        self._demand.requested(chute.chute)
        field = self._directory.field(chute.chute)
        # Where there is no choice there is nothing to remember.
        has_marks = manifest.modality is _CHAT and len(field.instances) > 1
        tokens = 1 + len(call.prompt or call.body) // BYTES_PER_TOKEN
        context_max = manifest.limits.context_tokens_max
        prompt = Prompt(
            marks_of(call.prompt, chute.chute) if has_marks else (),
            min(context_max, tokens),
            bounds.completion_max,
        )
        asking = Asking(self._need(chute), self._clock.now_ms(), self._seed())
        choice = None
        if wants is NO_WANTS and target.sort is _BALANCE:
            choice = self._chooser.choose(field, prompt, asking)
        if choice is None:
            if wants.sort is _BALANCE:
                wants = wants if target.sort is _BALANCE else replace(wants, sort=target.sort)
            looked = self._chooser.judge_all(
                field, prompt, candidates=list(field.instances), asking=asking
            )
            choice = arranged(looked, call, (chute, bounds), wants=wants)
            if choice is None:
                self._demand.refused(chute.chute)
                raise refusal(looked, call.model, chute)
        expected = self._chooser.take(field, prompt, choice)
        spelled = choice.spelled()
        digest = digest_spelled("decision", spelled).hex()
        instances = tuple([one.instance for one in choice.judged])
        instances[0].expect(digest, expected)
        former = instances[0].price
        hold_nano = bounds.charge_max(former)
        for one in instances[1 : self._bounds.tries_max]:
            if one.price is not former:
                former = one.price
                hold_nano = max(hold_nano, bounds.charge_max(former))
        return Plan(
            call,
            chute,
            bounds,
            instances,
            hold_nano,
            spelled,
            digest,
            len(field.instances),
            choice,
            prompt,
        )

    def _need(self, chute: Chute) -> Need:
        need = self._needs.get(chute.chute)
        if need is None:
            if len(self._needs) >= self._bounds.chutes_max:
                self._needs.clear()
            need = self._needs[chute.chute] = Need(chute.chute, chute.manifest.price_max)
        return need

    def _seed(self) -> int:
        start = self._seeds_at
        if start == len(self._seeds):
            self._seeds = self._entropy(SEEDS_BYTES)
            start = 0
        self._seeds_at = end = start + SEED_BYTES
        return int.from_bytes(self._seeds[start:end], "big")


def _string_of(target: Target) -> str:
    """The model string that means this target again."""
    return target.model if target.sort is Sort.BALANCE else f"{target.model}:{_SUFFIX[target.sort]}"


_SUFFIX = {Sort.PRICE: "floor", Sort.THROUGHPUT: "throughput", Sort.LATENCY: "latency"}
