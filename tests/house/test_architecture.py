"""ARCHITECTURE.md is a map: short, and every file it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAP = ROOT / "ARCHITECTURE.md"
LINES_MAX = 250
NAMED = re.compile(r"`([\w./-]+\.py)`")
PLACES = (ROOT, ROOT / "src" / "penstock", ROOT / "src")


def missing(text: str) -> list[str]:
    """Python files that the table rows of a map name and that are in none of the places."""
    rows = [line for line in text.splitlines() if line.lstrip().startswith("|")]
    named = {name for row in rows for name in NAMED.findall(row)}
    return sorted(name for name in named if not any((place / name).is_file() for place in PLACES))


def test_every_file_on_the_map_exists() -> None:
    assert MAP.is_file(), "ARCHITECTURE.md is the map of the project; it must be there"
    assert missing(MAP.read_text()) == []


def test_the_map_is_short_enough_to_read() -> None:
    assert len(MAP.read_text().splitlines()) <= LINES_MAX


def test_a_file_that_is_not_there_is_found() -> None:
    rows = "| `spec/canon.py` | `src/penstock/spec/log.py` |\n| `spec/gone.py` | `tools/tidy.py` |"
    assert missing(rows) == ["spec/gone.py"]


def test_files_named_outside_the_tables_are_prose() -> None:
    assert missing("a chute has a `chute.py` of its own") == []
