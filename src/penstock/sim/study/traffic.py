"""Requests with the statistics of the published week of two models: sizes, users, sessions, times.

The trace itself holds no text: its sessions were recovered by a rule. A request continues one of the
same user's last ten requests, the one whose prompt and answer together are the longest that still
fit into its own prompt, if nobody has continued that one yet. One user ("the agent") sends most of
MiniMax's tokens; drawing its prompt lengths independently and applying the rule gives the published
histogram of turns almost exactly, so that is how its sessions are made here. Everybody else chats:
a conversation grows turn by turn, with human pauses.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

LOOKBACK = 10
"""How many of a user's latest requests a new one may continue: the published rule."""
PROMPT_TOKENS_MAX = 190_000
AGENT = 0
"""The user number of the one heavy user."""
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `session` is what the router never sees; `reuse` the tokens it has in common with
    what its session had before.
    """

    at_us: int
    user: int
    session: int
    turn: int
    prompt: int
    completion: int
    reuse: int


@dataclass(frozen=True, slots=True)
class Agent:
    """The heavy user: its share of the requests, and its prompt lengths (log-normal)."""

    share: float
    prompt_mean: float
    prompt_sigma: float


@dataclass(frozen=True, slots=True)
class Chats:
    """Everybody else: how conversations begin, grow, pause and end."""

    single_share: float
    """Conversations of one turn."""
    more_mean: float
    """Further turns of the others, on average (geometric)."""
    prompt_mean: float
    prompt_sigma: float
    growth_mean: float
    """Tokens that a turn adds, answer included."""
    pause_s: float
    """Median pause between two turns."""
    pause_sigma: float


@dataclass(frozen=True, slots=True)
class Workload:
    """One model's week."""

    name: str
    rate_per_s: float
    completion_mean: float
    agent: Agent
    chats: Chats


MINIMAX = Workload(
    name="MiniMax M2.5",
    rate_per_s=6.98,
    completion_mean=272,
    agent=Agent(share=0.884, prompt_mean=35_500, prompt_sigma=0.8),
    chats=Chats(
        single_share=0.85,
        more_mean=2.0,
        prompt_mean=6_500,
        prompt_sigma=1.0,
        growth_mean=1_500,
        pause_s=8.0,
        pause_sigma=1.3,
    ),
)

DEEPSEEK = Workload(
    name="DeepSeek V3.2",
    rate_per_s=11.9,
    completion_mean=471,
    agent=Agent(share=0.355, prompt_mean=7_500, prompt_sigma=0.8),
    chats=Chats(
        single_share=0.42,
        more_mean=2.8,
        prompt_mean=5_500,
        prompt_sigma=0.9,
        growth_mean=7_000,
        pause_s=130.0,
        pause_sigma=1.75,
    ),
)


def requests(load: Workload, count: int, *, seed: int) -> list[Ask]:
    """So many requests in the order of their arrival, the same for the same seed."""
    chance = Random(seed)  # noqa: S311 -- synthetic traffic, the same for the same seed
    agent = _agent(load, chance)
    chats = _Chatters(load, chance)
    found: list[Ask] = []
    at_s = 0.0
    while len(found) < count:
        at_s += chance.expovariate(load.rate_per_s)
        if chance.random() < load.agent.share:
            session, turn, prompt, completion, reuse = next(agent)
            found.append(Ask(int(at_s * MICRO), AGENT, session, turn, prompt, completion, reuse))
        else:
            found.append(chats.next(at_s))
    return found


def _length(chance: Random, mean: float, sigma: float) -> int:
    """Log-normal with this mean, within what a context holds."""
    drawn = math.exp(math.log(mean) - sigma * sigma / 2 + sigma * chance.gauss(0, 1))
    return max(20, min(int(drawn), PROMPT_TOKENS_MAX))


def _agent(load: Workload, chance: Random) -> Iterator[tuple[int, int, int, int, int]]:
    """The heavy user's requests, linked to sessions by the published rule. Sessions are even."""
    recent: deque[list[int]] = deque(maxlen=LOOKBACK)  # [tokens, session, turn, is continued]
    sessions = 0
    while True:
        prompt = _length(chance, load.agent.prompt_mean, load.agent.prompt_sigma)
        completion = 1 + int(chance.expovariate(1 / load.completion_mean))
        parent: list[int] | None = None
        for one in recent:
            if not one[3] and one[0] < prompt and (parent is None or one[0] > parent[0]):
                parent = one
        if parent is None:
            sessions += 2
            session, turn, reuse = sessions, 0, 0
        else:
            parent[3] = 1
            session, turn, reuse = parent[1], parent[2] + 1, parent[0]
        recent.append([prompt + completion, session, turn, 0])
        yield session, turn, prompt, completion, reuse


class _Chatters:
    """Conversations that are due for their next turn. The rate is kept: a turn that is due takes the
    place of a new conversation. Sessions are odd.
    """

    def __init__(self, load: Workload, chance: Random) -> None:
        self._load = load
        self._chance = chance
        self._due: list[tuple[float, int, int, int, int]] = []  # when, session, turn, tokens, left
        self._sessions = 1

    def next(self, at_s: float) -> Ask:
        chats, chance = self._load.chats, self._chance
        if self._due and self._due[0][0] <= at_s:
            _, session, turn, reuse, left = heappop(self._due)
            prompt = min(
                reuse + 1 + int(chance.expovariate(1 / chats.growth_mean)), PROMPT_TOKENS_MAX
            )
        else:
            self._sessions += 2
            session, turn, reuse, left = self._sessions, 0, 0, 0
            if chance.random() >= chats.single_share:
                left = 1 + int(chance.expovariate(1 / chats.more_mean))
            prompt = _length(chance, chats.prompt_mean, chats.prompt_sigma)
        completion = 1 + int(chance.expovariate(1 / self._load.completion_mean))
        if left:
            pause_s = chats.pause_s * math.exp(chats.pause_sigma * chance.gauss(0, 1))
            heappush(self._due, (at_s + pause_s, session, turn + 1, prompt + completion, left - 1))
        return Ask(int(at_s * MICRO), session, session, turn, prompt, completion, reuse)
