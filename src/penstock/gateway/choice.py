"""The choice of an instance: the rules of spec/routing.py over what this gateway knows.

No bytes, no clock and no chance of its own: a prompt is its marks and its length, the time and the
seed are given. The gateway and the routing study (sim/study) run this same code.
"""

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from penstock.gateway.anchors import BYTES_PER_TOKEN, HOMES_MAX, LADDER, Thread, Threads
from penstock.gateway.field import Field
from penstock.gateway.instances import Expected, Instance
from penstock.spec.entries import size_bucket
from penstock.spec.routing import (
    AHEAD_MAX_PPM,
    ANSWER_WORK,
    DECISION_SHOWN_MAX,
    EXPLORING,
    FAIR_REQUESTS,
    POLICY,
    Considered,
    Decision,
    Need,
    Rejection,
    draws,
    is_exploring,
    mix,
    rejection,
    steady_pace_ns,
)
from penstock.spec.units import PPM

SCORED_MAX = 6
"""Up to so many instances all are compared; of more, the homes of the thread and DRAWN others."""
DRAWN = 4
NS_PER_US = 1_000

_MERIT = attrgetter("merit")


class Prompt(msgspec.Struct):
    """A request as far as the choice goes by it: the beginning, the length, the answer's bound."""

    marks: Sequence[int]
    tokens: int
    completion_max: int


class Asking(msgspec.Struct):
    """When, by what chance, and what every instance has to fulfil."""

    need: Need
    now_ms: int
    seed: int


class Merit(msgspec.Struct):
    """One instance, judged."""

    instance: Instance
    reason: Rejection | None
    merit: int
    cached_ppm: int
    """The share of the prompt that is believed to be in its cache."""
    given_us: int
    """What it counts as given to it if it is chosen."""


class Choice(msgspec.Struct):
    """Who is asked, best first, and why. The rest is for `Chooser.take`."""

    judged: list[Merit]
    """Those that may serve, best first."""
    rejected: list[Merit]
    policy: str
    seed: int
    present: int
    found: Thread | None
    """The thread whose beginning the prompt shares, and how many tokens of it."""
    shared: int
    is_continued: bool
    """All of that thread's latest prompt is the beginning of this one."""

    def decision(self) -> Decision:
        """The record: those that may serve in their order, then the others, as many as are shown."""
        shown = self._shown()
        return Decision(
            policy=self.policy,
            seed=self.seed,
            present=self.present,
            considered=tuple(
                Considered(
                    instance=one.instance.name,
                    reason="" if one.reason is None else one.reason.value,
                    merit=one.merit,
                    cached_ppm=one.cached_ppm,
                )
                for one in shown
            ),
            choice=self.judged[0].instance.name,
        )

    def spelled(self) -> bytes:
        """The decision's canonical bytes, `spell(decision())`, without the decision: names of
        instances and reasons need no escaping, and this is done for every request.
        """
        considered = ",".join(
            [
                f'{{"cached_ppm":{one.cached_ppm},"instance":"{one.instance.offer.instance}",'
                f'"merit":{one.merit},"reason":"{"" if one.reason is None else one.reason.value}"}}'
                for one in self._shown()
            ]
        )
        return (
            f'{{"choice":"{self.judged[0].instance.offer.instance}","considered":[{considered}],'
            f'"policy":"{self.policy}","present":{self.present},"seed":{self.seed}}}'
        ).encode()

    def _shown(self) -> list[Merit]:
        fit, rejected = self.judged, self.rejected
        if not rejected and len(fit) <= DECISION_SHOWN_MAX:
            return fit
        return (fit + rejected)[:DECISION_SHOWN_MAX]


class Chooser:
    """Chooses, and remembers where prompts went. One for all chutes of a gateway."""

    def __init__(self, threads: Threads | None = None) -> None:
        self._threads = Threads() if threads is None else threads

    def choose(self, field: Field, prompt: Prompt, asking: Asking) -> Choice | None:
        """The best of those that are compared; None if none of them may serve."""
        found, depth = self._threads.find(prompt.marks)
        candidates = _candidates(field, found, asking.seed)
        shared = _shared(depth, prompt)
        judged = judge(field, prompt, candidates, asking=asking, known=(found, shared))
        rejected = [one for one in judged if one.reason is not None]
        if rejected:
            judged = [one for one in judged if one.reason is None]
        if not judged:
            return None
        if len(judged) > 1:
            judged.sort(key=_MERIT)
        policy = POLICY
        if field.unmeasured and is_exploring(asking.seed) and _explore(judged, asking.seed):
            policy = EXPLORING
        is_continued = found is not None and depth >= len(found.marks)
        return Choice(
            judged,
            rejected,
            policy,
            asking.seed,
            len(field.instances),
            found,
            shared,
            is_continued,
        )

    def judge_all(
        self, field: Field, prompt: Prompt, *, candidates: list[Instance], asking: Asking
    ) -> Choice:
        """All of these, unsorted, none left out: for a caller with an order of his own."""
        found, depth = self._threads.find(prompt.marks)
        shared = _shared(depth, prompt)
        return Choice(
            judged=judge(field, prompt, candidates, asking=asking, known=(found, shared)),
            rejected=[],
            policy=POLICY,
            seed=asking.seed,
            present=len(field.instances),
            found=found,
            shared=shared,
            is_continued=found is not None and depth >= len(found.marks),
        )

    def take(self, field: Field, prompt: Prompt, choice: Choice, *, place: int = 0) -> Expected:
        """The request goes to this place of the ranking: remember it.

        Returns what was believed, for `Instance.expect`.
        """
        one = choice.judged[place]
        instance, found = one.instance, choice.found
        field.gave(instance, one.given_us)
        sequence = field.sequence
        kept = distance = 0
        if found is not None:
            kept, distance = instance.shelf.last(found.number)
        is_continued = found is not None and choice.is_continued
        thread = found if found is not None and is_continued else self._threads.new()
        field.returns.used(thread, sequence, is_continued=is_continued)
        fresh = prompt.tokens - (choice.shared if one.cached_ppm else 0)
        instance.shelf.put(
            thread.number, prompt.tokens, fresh=fresh, sequence=sequence, kind=thread.kind
        )
        homes = thread.homes
        if not homes or homes[0] is not instance:
            if instance in homes:
                homes.remove(instance)
            homes.insert(0, instance)
            del homes[HOMES_MAX:]
        self._threads.keep(thread, prompt.marks)
        return Expected(min(choice.shared, kept), prompt.tokens, distance)


def judge(
    field: Field,
    prompt: Prompt,
    candidates: list[Instance],
    *,
    asking: Asking,
    known: tuple[Thread | None, int],
) -> list[Merit]:
    """What speaks for and against each of these instances. `known` is the thread that the prompt
    shares a beginning with, and how many tokens of it.
    """
    field.refresh()
    found, shared = known
    need, now_ms = asking.need, asking.now_ms
    chute, price_max = need.chute, need.price_max
    number = found.number if found is not None else 0
    tokens = prompt.tokens
    completion = field.completion(tokens, prompt.completion_max)
    whole = tokens + ANSWER_WORK * completion
    bucket = size_bucket(whole)
    usual_ns, mean_us, fair_us = field.pace_ns(bucket), field.mean_us, field.usual_given_us
    fair_us *= FAIR_REQUESTS
    load = tokens + completion
    judged = []
    for one in candidates:
        if not (  # as `routing.rejection`, without the reason: most may
            one.running < one.room
            and one.valid_until_ms >= now_ms >= one.broken_until_ms
            and not one.is_trial
            and one.chute == chute
            and (
                price_max is None
                or (one.is_fit if price_max is one.asked_price else one.fits(price_max))
            )
        ):
            judged.append(Merit(one, rejection(one, need, now_ms=now_ms), 0, 0, 0))
            continue
        shelf = one.shelf
        cached = 0
        if number and (number in shelf.live or number in shelf.ghosts):
            cached = shelf.believed(number, shared)
        work = whole - cached
        if shelf.clock + tokens - cached > shelf.memory.capacity_tokens:
            work += shelf.loss(
                tokens - cached, thread=number, sequence=field.sequence, returns=field.returns
            )
        # From here to `score` it is `routing.merit`, with what all of them share reckoned once.
        room, own_ns = one.room, one.paces_ns[bucket]
        pace_ns = steady_pace_ns(own_ns, usual_ns) if own_ns else usual_ns
        time_us = work * pace_ns * (room + one.running) * (1 + one.failures) // (room * 1000)
        ahead_us = one.given_us - mean_us
        if ahead_us > 0 and fair_us > 0:
            time_us += time_us * min(AHEAD_MAX_PPM, ahead_us * PPM // fair_us) // PPM
        score = 1 + time_us * one.cost_ppm // PPM
        # Load is balanced in tokens, in and out; what is cached takes little time but holds its
        # place in memory, so it counts half.
        given_us = (load - cached // 2) * usual_ns // NS_PER_US
        share_ppm = cached * PPM // tokens if cached else 0
        judged.append(Merit(one, None, score, share_ppm, given_us))
    return judged


def _shared(depth: int, prompt: Prompt) -> int:
    """Tokens up to the last mark in common."""
    return min(LADDER[depth - 1] // BYTES_PER_TOKEN, prompt.tokens) if depth else 0


def _candidates(field: Field, found: Thread | None, seed: int) -> list[Instance]:
    """All of a few; of many the homes of the thread, and others by chance, none twice."""
    instances = field.instances
    size = len(instances)
    if size <= SCORED_MAX:
        if size < 2:
            return list(instances)
        start = mix(seed, 1) % size
        return instances[start:] + instances[:start]
    chosen = [one for one in found.homes if one.lessons is field] if found is not None else []
    for place in draws(seed, size, count=DRAWN):
        one = instances[place]
        if one not in chosen:
            chosen.append(one)
    return chosen


def _explore(fit: list[Merit], seed: int) -> bool:
    """Put a free instance that nobody has measured first, if there is one among them."""
    unknown = [one for one in fit if not one.instance.pace_ns and not one.instance.running]
    if not unknown:
        return False
    tried = unknown[mix(seed, 1) % len(unknown)]
    fit.remove(tried)
    fit.insert(0, tried)
    return True
