"""As much test as source, and next to no mocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOCKS_PER_TEST_MAX_PPM = 50_000
MOCK = re.compile(
    r"\b(MagicMock|AsyncMock|Mock|create_autospec|mocker)\(|\bpatch(\.object|\.dict)?\("
    r"|\bmonkeypatch\.setattr\("
)
TEST = re.compile(r"^\s*(?:async )?def test_", re.MULTILINE)


def sources(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.rglob("*.py"))]


def line_count(texts: list[str]) -> int:
    """Lines that are not blank."""
    return sum(1 for text in texts for line in text.splitlines() if line.strip())


def mock_count(texts: list[str]) -> int:
    return sum(len(MOCK.findall(text)) for text in texts)


def number_of_tests(texts: list[str]) -> int:
    return sum(len(TEST.findall(text)) for text in texts)


def test_there_are_at_least_as_many_lines_of_tests_as_of_source() -> None:
    assert line_count(sources(ROOT / "tests")) >= line_count(sources(ROOT / "src" / "penstock"))


def test_fewer_than_one_test_in_twenty_holds_a_mock() -> None:
    texts = sources(ROOT / "tests")
    assert mock_count(texts) * 1_000_000 < MOCKS_PER_TEST_MAX_PPM * number_of_tests(texts)


def test_a_mock_is_counted_and_a_blank_line_is_not() -> None:
    planted = "x = Mo" + "ck()\n\nmonkey" + "patch.setattr(a, 'b', c)\n"
    assert mock_count([planted]) == 2
    assert line_count([planted]) == 2
