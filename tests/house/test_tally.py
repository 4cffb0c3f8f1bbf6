"""The closing line of `make test` counts each test once, and a failure in any run."""

from pathlib import Path

import pytest
from tools.tally import run

PASSED, FAILED, BROKEN, SKIPPED = "", "<failure/>", "<error/>", "<skipped/>"


def write(folder: Path, name: str, **ends: str) -> None:
    cases = "".join(
        f'<testcase classname="a" name="{test}">{end}</testcase>' for test, end in ends.items()
    )
    (folder / f"{name}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")


@pytest.mark.parametrize(
    ("again", "told", "status"),
    [
        (PASSED, "3 passed, 0 failed, 1 skipped", 0),
        (SKIPPED, "3 passed, 0 failed, 1 skipped", 0),
        (FAILED, "2 passed, 1 failed, 1 skipped", 1),
        (BROKEN, "2 passed, 1 failed, 1 skipped", 1),
    ],
)
def test_a_test_that_ran_twice_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], again: str, told: str, status: int
) -> None:
    write(tmp_path, "check", one=PASSED, two=PASSED, three=SKIPPED)
    write(tmp_path, "full", two=again, four=PASSED)
    assert run(tmp_path) == status
    assert capsys.readouterr().out == told + "\n"


def test_no_report_at_all_is_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path) == 1
