"""One cell of the study: a stream of requests through one policy on so many caches of one size."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from penstock.sim.study.caches import Cache
from penstock.sim.study.policies import POLICIES
from penstock.sim.study.traffic import Ask

OVERHEAD_US = 500_000
PREFILL_TOKENS_PER_S = 8_000
DECODE_TOKENS_PER_S = 45
US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """What came out. Shares in ppm; an imbalance is the busiest instance over the mean, less one.

    `token_imbalance_ppm` counts prompt and answer tokens sent to an instance, `work_imbalance_ppm`
    those it had to compute (what was cached left out).
    """

    policy: str
    instances: int
    cache_tokens: int
    requests: int
    hit_ppm: int
    token_imbalance_ppm: int
    work_imbalance_ppm: int


def replay(
    asks: Sequence[Ask], policy: str, *, instances: int, cache_tokens: int, seed: int
) -> Cell:
    """Run the requests in their order. How long one takes does not depend on the policy, as in the
    published study: it is the time of its prompt and its answer at usual speeds.
    """
    caches = [Cache(cache_tokens) for _ in range(instances)]
    router = POLICIES[policy](caches, seed)
    active, sent, worked = [0] * instances, [0] * instances, [0] * instances
    running: list[tuple[int, int, int, int]] = []  # until when, which ask, where, cached
    hits = prompts = 0
    for number, ask in enumerate(asks):
        while running and running[0][0] <= ask.at_us:
            _, ended, place, cached = heappop(running)
            one = asks[ended]
            active[place] -= one.prompt + one.completion
            router.ended(one, place, cached=cached, took_us=duration_us(one, cached))
        place = router.choose(ask, active)
        cached = caches[place].reusable(ask.session, ask.prompt)
        router.served(ask, place, cached=cached)
        tokens = ask.prompt + ask.completion
        caches[place].put(ask.session, tokens)
        heappush(running, (ask.at_us + duration_us(ask, cached), number, place, cached))
        active[place] += tokens
        sent[place] += tokens
        worked[place] += tokens - cached
        hits += cached
        prompts += ask.prompt
    return Cell(
        policy=policy,
        instances=instances,
        cache_tokens=cache_tokens,
        requests=len(asks),
        hit_ppm=hits * 1_000_000 // max(1, prompts),
        token_imbalance_ppm=imbalance_ppm(sent),
        work_imbalance_ppm=imbalance_ppm(worked),
    )


def duration_us(ask: Ask, cached: int) -> int:
    """How long the request is active: what is cached needs no prefill."""
    return (
        OVERHEAD_US
        + (ask.prompt - cached) * US_PER_S // PREFILL_TOKENS_PER_S
        + ask.completion * US_PER_S // DECODE_TOKENS_PER_S
    )


def imbalance_ppm(loads: Sequence[int]) -> int:
    """The most over the mean, less one."""
    total = sum(loads)
    return max(loads) * len(loads) * 1_000_000 // total - 1_000_000 if total else 0
