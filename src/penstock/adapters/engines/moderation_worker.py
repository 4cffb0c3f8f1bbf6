"""Moderation by a logistic head over MiniLM's vectors: `python -m <this module>`.

A long text is judged passage by passage, and the worst passage counts for each category.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from penstock.adapters.engines.minilm_vectors import MiniLmSettings, Vectors, all_passages
from penstock.adapters.engines.moderation_head import (
    CATEGORIES,
    SAFE,
    Head,
    flags_of,
    read_head,
    scores_of,
)
from penstock.adapters.engines.worker import (
    Loaded,
    Made,
    json_made,
    refused,
    run_worker,
    understood,
)

PATH = "/v1/moderations"
INPUTS_MAX = 2_048
SCORE_DIGITS = 6


class ModerationSettings(MiniLmSettings, frozen=True, kw_only=True):
    """`head` is the file of the head."""

    head: str


class ModerationQuestion(msgspec.Struct):
    input: (
        str
        | Annotated[list[str | dict[str, Any]], msgspec.Meta(min_length=1, max_length=INPUTS_MAX)]
    )


class Desk:
    """The skill: texts in, a result for each."""

    def __init__(self, vectors: Vectors, head: Head, *, model: str) -> None:
        self._vectors = vectors
        self._head = head
        self._model = model

    def moderate(self, body: bytes) -> Made:
        """Raises Refusal (400)."""
        texts = texts_of(understood(body, ModerationQuestion).input)
        found, places = all_passages(texts, param="input")
        vectors, tokens = self._vectors.of(found)
        results = [Result() for _ in texts]
        for place, passage, vector in zip(places, found, vectors, strict=True):
            chances = self._head.chances(vector)
            results[place].add(scores_of(chances, passage), safe=chances[SAFE])
        answer = {
            "id": f"modr-{hashlib.sha256(body).hexdigest()[:24]}",
            "model": self._model,
            "results": [result.shown() for result in results],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return json_made(answer, prompt_tokens=tokens)


class Result:
    """What was found in one text, passage by passage."""

    def __init__(self) -> None:
        self._scores = dict.fromkeys(CATEGORIES, 0.0)
        self._flags = dict.fromkeys(CATEGORIES, False)

    def add(self, scores: dict[str, float], *, safe: float) -> None:
        flags = flags_of(scores, safe=safe)
        for name in CATEGORIES:
            self._scores[name] = max(self._scores[name], scores[name])
            self._flags[name] = self._flags[name] or flags[name]

    def shown(self) -> dict[str, Any]:
        """OpenAI's result."""
        return {
            "flagged": any(self._flags.values()),
            "categories": self._flags,
            "category_scores": {
                name: round(score, SCORE_DIGITS) for name, score in self._scores.items()
            },
            "category_applied_input_types": {
                name: ["text"] if flag else [] for name, flag in self._flags.items()
            },
        }


def texts_of(asked: str | list[str | dict[str, Any]]) -> list[str]:
    """Texts are judged one by one; the parts of one message together. Raises Refusal (400)."""
    if isinstance(asked, str):
        return [asked]
    if all(isinstance(one, str) for one in asked):
        return [one for one in asked if isinstance(one, str)]
    texts: list[str] = []
    for part in asked:
        text = part if isinstance(part, str) else part.get("text")
        if not isinstance(text, str):
            raise refused("This engine judges text only: leave images out.", "input")
        texts.append(text)
    return [" ".join(texts)]


def load(settings: ModerationSettings) -> Loaded:
    head = read_head(Path(settings.head))
    vectors = Vectors(settings)
    return Loaded({PATH: Desk(vectors, head, model=settings.model).moderate}, vectors.version)


if __name__ == "__main__":
    run_worker(ModerationSettings, load)
