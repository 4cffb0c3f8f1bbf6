"""The vectors: each file is run against the law, and no file lies unread."""

import json
from pathlib import Path

import pytest
from tools.vectors import (
    VECTORS,
    Vector,
    all_vectors,
    differences,
    main,
    outcome,
    strangers,
    write,
)

ALL = list(all_vectors())


@pytest.mark.parametrize("vector", ALL, ids=lambda v: str(v.path.relative_to(VECTORS)))
def test_the_law_answers_as_the_vector_says(vector: Vector) -> None:
    said = json.loads(vector.path.read_text())
    given = said.pop("input")
    assert json.loads(json.dumps(outcome(vector.run, given))) == said


def test_every_file_under_vectors_is_opened() -> None:
    opened = {vector.path for vector in ALL} | {VECTORS / "README.md"}
    assert {path for path in VECTORS.rglob("*") if path.is_file()} == opened


def test_the_written_vectors_are_those_of_the_law_as_it_is_now() -> None:
    assert differences() == []
    assert main(["--check"]) == 0


def test_every_module_has_both_answers_and_refusals() -> None:
    """A law that never refuses has not been asked enough. Yuma is total: it refuses nothing."""
    refusing = {
        vector.path.parts[-3] for vector in ALL if "error" in outcome(vector.run, vector.given)
    }
    answering = {
        vector.path.parts[-3] for vector in ALL if "output" in outcome(vector.run, vector.given)
    }
    assert answering >= {"canon", "consensus", "log", "notes", "shares", "yuma"}
    assert refusing >= {"canon", "consensus", "log", "notes", "shares"}


def test_check_names_what_is_missing_different_or_unknown(tmp_path: Path) -> None:
    assert write(tmp_path) == len(ALL)
    assert differences(tmp_path) == []
    gone, changed, *_ = (vector.path for vector in all_vectors(tmp_path))
    gone.unlink()
    changed.write_text("{}")
    unknown = tmp_path / "canon" / "unknown.json"
    unknown.write_text("{}")
    assert strangers(tmp_path) == [unknown]
    assert sorted(line.split(":")[0] for line in differences(tmp_path)) == [
        "different",
        "missing",
        "unknown",
    ]


def test_an_argument_that_is_not_known_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--chekc"]) == 2
    assert "tools/vectors.py --check" in capsys.readouterr().out
