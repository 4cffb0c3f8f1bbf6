"""`make test` runs every test at least once, and every property in full."""

import ast
import re
from pathlib import Path

from hypothesis import settings
from tests.properties import FULL, QUICK, in_full

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(target: str) -> list[str]:
    """The lines of one target that start pytest."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None
    return [line for line in found[1].splitlines() if "PYTEST" in line or "-m pytest" in line]


def folders(lines: list[str]) -> set[str]:
    return {name for line in lines for name in re.findall(r"\btests/(\w+)", line)}


def test_every_folder_of_tests_is_run() -> None:
    there = {
        file.parent.relative_to(ROOT / "tests").parts[0]
        for file in ROOT.glob("tests/*/**/test_*.py")
    }
    checked = folders(commands("check") + commands("check-law") + commands("check-style"))
    assert checked | folders(commands("test")) == there


def test_what_check_leaves_out_the_full_pass_runs() -> None:
    """Check: all but the slow, few examples. Full: the slow and the properties. Together: all."""
    short = [one for one in commands("check") + commands("check-law") if "-m" in one]
    full = [one for one in commands("test") if " -m " in one]
    assert all('-m "not slow"' in one and f"--hypothesis-profile={QUICK}" in one for one in short)
    assert len(full) == 1
    assert '-m "hypothesis or slow"' in full[0]
    assert "profile" not in full[0]
    assert folders(full) == folders(short)
    rest = [one for one in commands("test") if one not in full]
    assert not any(" -m " in one or "profile" in one for one in rest)


def test_a_property_asks_for_its_share_of_the_profile() -> None:
    """A bare number would be drawn in `make check`, too."""
    bare = [
        f"{file.relative_to(ROOT)}:{node.value.lineno}"
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "max_examples" in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword) and node.arg == "max_examples"
        if not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "in_full")
    ]
    assert bare == []


def test_a_share_is_never_nothing() -> None:
    share = settings.get_profile(QUICK).max_examples / settings.get_profile(FULL).max_examples
    assert share < 1
    assert in_full(300) == 300
    assert in_full(1) == 1
