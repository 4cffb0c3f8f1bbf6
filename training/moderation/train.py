"""Teach the moderation head: `python -m training.moderation.train OUT.json [--home DIR]`.

MiniLM reads each sentence of `sentences.txt`; a multinomial logistic regression over its vectors is
fitted by plain gradient descent, each class with the same weight. Every fourth sentence of a class is held
out. The same sentences and the same model give the same file.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.adapters.engines.minilm import minilm_gguf
from penstock.adapters.engines.minilm_vectors import MiniLmSettings, Vectors
from penstock.adapters.engines.moderation_head import (
    LEARNED,
    SAFE,
    Head,
    flags_of,
    scores_of,
)

SENTENCES = Path(__file__).parent / "sentences.txt"
CLASSES = (SAFE, *LEARNED)
HELD_OUT_EVERY = 4
STEPS = 3_000
RATE = 4.0
DECAY = 3e-4
SCALE = 10_000
SAFE_WEIGHT = 4.0
"""What is safe is one class of thirteen, but most of what people write."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    label: str


def read_sentences(path: Path = SENTENCES) -> tuple[list[Example], list[Example]]:
    """(to train on, held out). Raises ValueError for an unknown class or a sentence that stands twice."""
    trained: list[Example] = []
    held: list[Example] = []
    seen: Counter[str] = Counter()
    label = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            label = line.strip("[]")
        elif line and not line.startswith("#"):
            seen[label] += 1
            seen[line] += 1
            if label not in CLASSES or seen[line] > 1:
                raise ValueError(f"{label!r} is no class, or this stands twice: {line!r}")
            (held if seen[label] % HELD_OUT_EVERY == 0 else trained).append(Example(line, label))
    return trained, held


def vectors_of(texts: Sequence[str], home: Path) -> Matrix:
    """One row a text."""
    path = str(minilm_gguf(home))
    settings = MiniLmSettings(model="minilm", slots_max=1, queue_max=1, path=path)
    found, _ = Vectors(settings).of(texts)
    return np.array(found, np.float64)


def fit(vectors: Matrix, labels: Sequence[str]) -> Head:
    """Full-batch gradient descent on the weighted cross-entropy."""
    places = np.array([CLASSES.index(label) for label in labels])
    wanted = np.eye(len(CLASSES))[places]
    shares = np.array([SAFE_WEIGHT if name == SAFE else 1.0 for name in CLASSES])
    weights = (shares / wanted.sum(axis=0))[places]
    weights /= weights.sum()
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
    theta = np.zeros((inputs.shape[1], len(CLASSES)))
    for _ in range(STEPS):
        logits = inputs @ theta
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
        slope = inputs.T @ ((chances - wanted) * weights[:, None]) + DECAY * theta
        theta -= RATE * slope
    whole = np.rint(theta * SCALE).astype(int)
    return Head(
        classes=list(CLASSES),
        scale=SCALE,
        weights=whole[:-1].T.tolist(),
        biases=whole[-1].tolist(),
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """How a head does: of safe and harmful sentences, how many were judged rightly; of harmful ones, for
    how many the right category was among the flagged.
    """

    safe_right: int
    safe: int
    harmful_right: int
    harmful: int
    category_right: int
    wrong: tuple[str, ...]

    def told(self) -> str:
        return (
            f"harmful found {self.harmful_right}/{self.harmful}, "
            f"their category {self.category_right}/{self.harmful}, "
            f"safe passed {self.safe_right}/{self.safe}"
        )


def measure(head: Head, examples: Sequence[Example], vectors: Matrix) -> Figures:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for example, vector in zip(examples, vectors, strict=True):
        chances = head.chances(vector.tolist())
        flags = flags_of(scores_of(chances, example.text), safe=chances[SAFE])
        is_safe = example.label == SAFE
        is_right = any(flags.values()) is not is_safe
        counts["safe" if is_safe else "harmful"] += 1
        counts["safe_right" if is_safe else "harmful_right"] += is_right
        counts["category_right"] += not is_safe and flags[example.label]
        if not is_right:
            wrong.append(f"{example.label}: {example.text}")
    return Figures(
        safe_right=counts["safe_right"],
        safe=counts["safe"],
        harmful_right=counts["harmful_right"],
        harmful=counts["harmful"],
        category_right=counts["category_right"],
        wrong=tuple(wrong),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the moderation head.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "penstock-train")
    asked = parser.parse_args()
    trained, held = read_sentences()
    vectors = vectors_of([one.text for one in (*trained, *held)], asked.home)
    seen, unseen = vectors[: len(trained)], vectors[len(trained) :]
    head = fit(seen, [one.label for one in trained])
    asked.out.write_bytes(msgspec.json.encode(head) + b"\n")
    print(f"trained on {len(trained)}: {measure(head, trained, seen).told()}")
    figures = measure(head, held, unseen)
    print(f"held out {len(held)}: {figures.told()}")
    for line in figures.wrong:
        print(f"  wrong: {line}")


if __name__ == "__main__":
    main()
