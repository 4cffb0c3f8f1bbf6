"""The moderation head and its training: what ships is what the script makes, and says what it can."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.moderation.train import (
    CLASSES,
    fit,
    measure,
    read_sentences,
    vectors_of,
)

from penstock.adapters.engines.minilm_vectors import (
    PASSAGE_WEIGHT_MAX,
    PASSAGES_MAX,
    all_passages,
    dot,
    passages,
)
from penstock.adapters.engines.moderation_head import (
    CATEGORIES,
    LEARNED,
    MINORS,
    SAFE,
    Head,
    flags_of,
    head_path,
    read_head,
    scores_of,
)
from penstock.kit.wire.problem import Refusal

CALM = dict.fromkeys(LEARNED, 0.01) | {SAFE: 0.88}


def test_the_shipped_head_is_what_the_script_makes(tmp_path: Path) -> None:
    """Whole weights may differ by a last digit between machines, what they say may not."""
    trained, held = read_sentences()
    vectors = vectors_of([one.text for one in (*trained, *held)], tmp_path)
    made = fit(vectors[: len(trained)], [one.label for one in trained])
    shipped = read_head(head_path())
    assert made.classes == shipped.classes
    away = np.abs(np.array(made.weights) - np.array(shipped.weights)).max()
    assert away <= made.scale // 100
    figures = measure(shipped, held, vectors[len(trained) :])
    assert (figures.harmful_right, figures.harmful) == (80, 84)
    assert (figures.safe_right, figures.safe) == (35, 40)
    assert figures.category_right >= 58
    assert len(figures.wrong) == 9


def test_sentences_are_balanced_and_every_fourth_is_held_out() -> None:
    trained, held = read_sentences()
    labels = [one.label for one in trained]
    assert {labels.count(name) for name in LEARNED} == {21}
    assert labels.count(SAFE) == 121
    assert len(held) == len(LEARNED) * 7 + 40
    assert not {one.text for one in trained} & {one.text for one in held}


@pytest.mark.parametrize("text", ["[nonsense]\na sentence\n", "[hate]\na\na\n", "no class\n"])
def test_a_file_of_sentences_with_a_mistake_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no class, or this stands twice"):
        read_sentences(path)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_chances_are_a_distribution(vector: list[float]) -> None:
    rows = [[(place * 7 + at * 3) % 11 - 5 for at in range(3)] for place in range(len(CLASSES))]
    head = Head(list(CLASSES), 1, rows, [0] * len(CLASSES))
    chances = head.chances(vector)
    assert sum(chances.values()) == pytest.approx(1)
    assert min(chances.values()) >= 0


def test_a_category_counts_what_its_narrower_ones_say() -> None:
    scores = scores_of({**CALM, "hate": 0.2, "hate/threatening": 0.3}, "a text")
    assert set(scores) == set(CATEGORIES)
    assert scores["hate"] == pytest.approx(0.5)
    assert scores["hate/threatening"] == pytest.approx(0.3)
    assert scores["harassment"] == pytest.approx(0.02)


def test_what_is_sexual_and_names_the_young_is_of_the_gravest_kind() -> None:
    chances = {**CALM, "sexual": 0.9}
    assert scores_of(chances, "Two adults alone.")[MINORS] == 0
    assert scores_of(chances, "It is about a Teenager.")[MINORS] == pytest.approx(0.9)
    assert scores_of(CALM, "The child plays.")[MINORS] < 0.05


def test_a_text_that_is_harmful_on_the_whole_has_at_least_one_category() -> None:
    split = dict.fromkeys(LEARNED, 0.06) | {"violence": 0.2, SAFE: 0.2}
    scores = scores_of(split, "a text")
    flags = flags_of(scores, safe=split[SAFE])
    assert [name for name, flag in flags.items() if flag] == ["violence"]
    assert not any(flags_of(scores_of(CALM, "a"), safe=CALM[SAFE]).values())


def test_a_file_that_is_no_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    for data in (b"{", b"{}", msgspec.json.encode(Head(["safe"], 1, [[1]], [0]))):
        path.write_bytes(data)
        with pytest.raises(ValueError):
            read_head(path)


@given(st.text(max_size=3_000))
def test_passages_hold_the_whole_text_and_fit(text: str) -> None:
    found = passages(text)
    assert found
    assert "".join("".join(found).split()) == "".join(text.split())
    for passage in found:
        weights = [len(word) if word.isascii() else 3 * len(word) for word in passage.split()]
        assert sum(weights) <= PASSAGE_WEIGHT_MAX


def test_too_many_passages_are_refused_by_the_name_of_the_field() -> None:
    texts = ["word " * 10_000] * (PASSAGES_MAX // 100)
    with pytest.raises(Refusal) as refusal:
        all_passages(texts, param="documents")
    assert msgspec.json.decode(refusal.value.response.body)["error"]["param"] == "documents"
    found, places = all_passages(["a", "", "word " * 200], param="input")
    assert (found[0], places[:2], set(places[2:])) == ("a", [0, 1], {2})


def test_the_cosine_of_a_unit_vector_with_itself_is_one() -> None:
    assert dot([0.6, 0.8], [0.6, 0.8]) == pytest.approx(1)
