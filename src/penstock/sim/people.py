"""People: they ask, read, hang up, run out of money and get things wrong, each in a way of its own.

Everybody checks what comes back. A miner that is known to lie may be caught lying; everything else
that does not hold is a rule broken.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, assert_never

import msgspec

from penstock.kit.wire.client import HttpClient
from penstock.sim.caller import Caller, Heard, Question
from penstock.sim.cast import CHAT, EMBEDDINGS, KEY_PREFIX, Habit, PersonPart
from penstock.sim.engine import WORDS, answer_words, asked_text, vector_of
from penstock.sim.ground import PORT, Ground
from penstock.sim.witness import Word
from penstock.spec.receipts import Outcome

CHAT_PATH, EMBEDDINGS_PATH = "/v1/chat/completions", "/v1/embeddings"
TURNS_MAX = 4
BURST_MAX = 5
PROMPT_WORDS_MAX = 40
WRONG_KEY = "sk-penstock-nobody"
# 500 is never an answer: every refusal here has a cause that a station knows and names.
CODES = {
    0: {"ConnectFailed", "PeerClosed", "DeadlinePassed"},
    200: {"", "miner_failed", "PeerClosed", "DeadlinePassed"},
    400: {"invalid_json", "invalid_request"},
    401: {"invalid_api_key"},
    402: {"insufficient_funds"},
    404: {"model_not_found"},
    429: {"no_capacity", "rate_limited"},
    502: {"miner_failed"},
    503: {"no_capacity", "bus_down", "shutting_down"},
}

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wish:
    """A request and what an honest market may make of it."""

    question: Question
    statuses: frozenset[int]
    is_honest: Callable[[Heard], bool]


MAY_FAIL = frozenset({0, 429, 502, 503})
SPREADING = frozenset({Habit.BURSTY, Habit.POOR})
SERVED = frozenset({200}) | MAY_FAIL


class Person:
    """One caller. `liars` are the identities of miners whose answers may be doubted."""

    def __init__(self, ground: Ground, part: PersonPart, *, liars: frozenset[str]) -> None:
        self.part = part
        self._ground = ground
        self._liars = liars
        self._rng: Random = ground.chance.stream(part.name)
        self._caller = Caller(HttpClient(ground.network.at(part.name)), ground.keyring.verify)
        self._gateway = 0
        self._secret = KEY_PREFIX + part.name

    async def live(self, until_s: float) -> None:
        """Ask until the time is over; what is under way then ends by itself."""
        loop, rng = self._ground.loop, self._rng
        while True:
            await asyncio.sleep(rng.expovariate(1000 / self.part.pause_ms))
            if loop.time() >= until_s:
                break
            await self._act()
        await self._caller.close()

    async def _act(self) -> None:
        match self.part.habit:
            case Habit.CHATTER | Habit.POOR:
                await self._session(turns=self._rng.randint(1, TURNS_MAX))
            case Habit.BURSTY:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._rng.randint(2, BURST_MAX)):
                        group.create_task(self._session(turns=1))
            case Habit.EMBEDDER:
                await self._one(self._embedding())
            case Habit.LEAVER:
                wish = self._chat([self._message()], leave_after=self._rng.randint(0, 12))
                await self._one(wish)
            case Habit.FORGER:
                await self._one(self._forgery())
            case _:
                assert_never(self.part.habit)

    async def _session(self, *, turns: int) -> None:
        """A talk in which every turn repeats all that was said before."""
        said = [self._message()]
        for _ in range(turns):
            heard = await self._one(self._chat(list(said)))
            if heard.status != 200 or heard.code:
                return
            said += [{"role": "assistant", "content": heard.text}, self._message()]
            await asyncio.sleep(self._rng.random())

    async def _one(self, wish: Wish) -> Heard:
        """Ask once; a gateway that does not answer is changed for the next one, and some change it
        anyway, so that all gateways spend from their accounts at once.
        """
        ground, gateways = self._ground, self._ground.cast.gateways
        url = f"http://{gateways[self._gateway % len(gateways)]}:{PORT}"
        heard = await self._caller.ask(url, wish.question)
        if heard.status == 0 or self.part.habit in SPREADING:
            self._gateway += 1
        ground.note(
            self.part.name,
            f"{wish.question.path} {heard.status} {heard.code} {heard.size} {heard.order_id}"
            f" {heard.has_left} {heard.doubt}",
        )
        self._judge(wish, heard)
        return heard

    def _judge(self, wish: Wish, heard: Heard) -> None:
        witness = self._ground.witness
        witness.counts["requests"] += 1
        witness.counts[f"status {heard.status}" + (f" {heard.code}" if heard.code else "")] += 1
        if heard.code not in CODES.get(heard.status, set()):
            witness.breaks("every answer is one that is documented", f"{self._said(wish, heard)}")
        if heard.status not in wish.statuses:
            witness.breaks("every answer fits its question", self._said(wish, heard))
        if heard.doubt:
            if heard.miner in self._liars:
                witness.counts["lies caught by clients"] += 1
            else:
                witness.breaks("every answer holds", self._said(wish, heard))
        seen = heard.countersign
        if seen is None:
            return
        word = Word(self.part.name, seen.outcome, seen.charge_nano)
        witness.words[seen.order_id] = word
        if seen.outcome is Outcome.COMPLETE and heard.status == 200 and not wish.is_honest(heard):
            witness.breaks("every answer is the engine's own", self._said(wish, heard))

    def _said(self, wish: Wish, heard: Heard) -> str:
        return f"{self.part.name} asked {wish.question.body[:80]!r} and heard {heard}"

    # What is asked.

    def _message(self) -> dict[str, str]:
        count = self._rng.randint(1, PROMPT_WORDS_MAX)
        return {"role": "user", "content": " ".join(self._rng.choices(WORDS, k=count))}

    def _chat(self, messages: list[dict[str, str]], *, leave_after: int = -1) -> Wish:
        rng = self._rng
        fields: dict[str, Any] = {"model": CHAT, "messages": messages}
        if rng.random() < 0.5:
            fields["max_tokens"] = rng.randint(1, 20)
        if leave_after >= 0 or rng.random() < 0.7:
            fields["stream"] = True
            if rng.random() < 0.5:
                fields["stream_options"] = {"include_usage": True}
        expected = " ".join(answer_words(asked_text(fields), fields.get("max_tokens")))
        return Wish(
            question=Question(CHAT_PATH, _encode(fields), self._secret, leave_after),
            statuses=self._served(),
            is_honest=lambda heard: heard.text == expected,
        )

    def _embedding(self) -> Wish:
        texts = [self._message()["content"] for _ in range(self._rng.randint(1, 4))]
        body = _encode({"model": EMBEDDINGS, "input": texts})
        expected = [vector_of(text) for text in texts]
        return Wish(
            question=Question(EMBEDDINGS_PATH, body, self._secret),
            statuses=self._served(),
            is_honest=lambda heard: [one["embedding"] for one in heard.body["data"]] == expected,
        )

    def _served(self) -> frozenset[int]:
        return SERVED | {402} if self.part.habit is Habit.POOR else SERVED

    def _forgery(self) -> Wish:
        """A request that must be refused, each kind with its own status."""
        right = _encode({"model": CHAT, "messages": [self._message()]})
        unknown = _encode({"model": "no/such", "messages": [self._message()]})
        other = _encode({"model": EMBEDDINGS, "messages": [self._message()]})
        secret, body, status = self._rng.choice(
            [
                (WRONG_KEY, right, 401),
                ("", right, 401),
                (self._secret, right[:-3], 400),
                (self._secret, b'{"model": 7}', 400),
                (self._secret, unknown, 404),
                (self._secret, other, 400),
            ]
        )
        return Wish(
            question=Question(CHAT_PATH, body, secret),
            statuses=MAY_FAIL | {status},
            is_honest=lambda _: False,
        )
