"""The moderation head: a multinomial logistic regression over MiniLM's vectors. Trained by
`training/moderation`, shipped as integers, so that everybody computes the same.

Its classes are `safe` and OpenAI's categories. It is a starter: a few hundred sentences taught it, all of
them English, and a text that a person would judge at a glance may pass it.
"""

import math
from pathlib import Path

import msgspec

from penstock.adapters.engines.minilm_vectors import Vector, dot

SAFE = "safe"
MINORS = "sexual/minors"
CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", MINORS, "violence", "violence/graphic"),
)
LEARNED = tuple(name for name in CATEGORIES if name != MINORS)
"""`sexual/minors` is not taught by example: it is what is sexual and names somebody under age."""
MINOR_WORDS = frozenset(
    {
        *("child", "children", "kid", "kids", "minor", "minors", "teen", "teens"),
        *("teenage", "teenager", "underage", "boy", "boys", "girl", "girls", "schoolgirl"),
        *("schoolboy", "preteen", "toddler", "infant", "baby", "daughter", "son", "pupil"),
    }
)
FLAGGED_MIN = 0.5


class Head(msgspec.Struct, frozen=True):
    """`weights[class][dimension]` and `biases[class]`, both in units of 1 / `scale`."""

    classes: list[str]
    scale: int
    weights: list[list[int]]
    biases: list[int]

    def chances(self, vector: Vector) -> dict[str, float]:
        """How likely each class is; the sum is 1."""
        rows = zip(self.weights, self.biases, strict=True)
        logits = [(dot(row, vector) + bias) / self.scale for row, bias in rows]
        peak = max(logits)
        powers = [math.exp(logit - peak) for logit in logits]
        total = sum(powers)
        return {name: power / total for name, power in zip(self.classes, powers, strict=True)}


def head_path() -> Path:
    """The head that ships with the package."""
    return Path(__file__).parent.parent / "models" / "moderation" / "moderation.json"


def read_head(path: Path) -> Head:
    """Raises OSError, ValueError for what is no head."""
    head = msgspec.json.decode(path.read_bytes(), type=Head)
    if set(head.classes) != {SAFE, *LEARNED} or len(head.classes) != len(head.weights):
        raise ValueError(f"{path} is no moderation head of these categories")
    return head


def scores_of(chances: dict[str, float], text: str) -> dict[str, float]:
    """The score of every category: a category counts what its narrower ones say, too."""
    scores = {
        name: sum(chances[one] for one in LEARNED if one == name or one.startswith(f"{name}/"))
        for name in CATEGORIES
    }
    words = {word.strip(".,;:!?\"'()").lower() for word in text.split()}
    scores[MINORS] = chances["sexual"] if words & MINOR_WORDS else 0.0
    return scores


def flags_of(scores: dict[str, float], *, safe: float) -> dict[str, bool]:
    """Which categories a text falls under: those above the bound, or the likeliest where the text as a
    whole is more likely harmful than not.
    """
    flags = {name: score >= FLAGGED_MIN for name, score in scores.items()}
    if safe < 1 - FLAGGED_MIN and not any(flags.values()):
        flags[max(scores, key=scores.__getitem__)] = True
    return flags
