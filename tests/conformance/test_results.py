"""Reports of foreign suites are read as they are written, and told without loss."""

import json

import pytest
from conformance.results import (
    MESSAGE_CHARS_MAX,
    Case,
    Outcome,
    Result,
    canary_cases,
    case_name,
    document,
    junit_cases,
    line,
    page,
    provider_cases,
    table,
)

PYTEST_REPORT = b"""<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.api.test_a.TestA" name="test_fine[strict]" file="tests/api/test_a.py"/>
<testcase classname="tests.api.test_a" name="test_bad" file="tests/api/test_a.py">
 <failure message="AssertionError:&#10;  1 == 2">the whole story</failure></testcase>
<testcase classname="tests.api.test_a.TestA" name="test_left" file="tests/api/test_a.py">
 <skipped type="pytest.skip" message="501: nothing is stored">somewhere</skipped></testcase>
<testcase classname="tests.api.test_a.TestA" name="test_torn" file="tests/api/test_a.py">
 <error message="teardown failed">x</error></testcase>
</testsuite></testsuites>"""
NODE_REPORT = b"""<?xml version="1.0"?><testsuites>
<testcase name="chat" time="0.1" classname="test"/>
<testcase name="a stream" time="0.1" classname="test"><failure type="t" message="no words"/></testcase>
<testcase name="later" classname="test"><skipped type="skipped" message="needs a voice"/></testcase>
</testsuites>"""


def result(*cases: Case, missing: str = "") -> Result:
    return Result("a suite", "1.2", cases, 3, missing)


def test_pytests_report_is_read_with_pytests_names() -> None:
    assert junit_cases(PYTEST_REPORT) == [
        Case("tests/api/test_a.py::TestA::test_fine[strict]", Outcome.PASSED),
        Case("tests/api/test_a.py::test_bad", Outcome.FAILED, "AssertionError: 1 == 2"),
        Case("tests/api/test_a.py::TestA::test_left", Outcome.SKIPPED, "501: nothing is stored"),
        Case("tests/api/test_a.py::TestA::test_torn", Outcome.FAILED, "teardown failed"),
    ]


def test_nodes_report_is_read_with_the_titles() -> None:
    assert junit_cases(NODE_REPORT) == [
        Case("chat", Outcome.PASSED),
        Case("a stream", Outcome.FAILED, "no words"),
        Case("later", Outcome.SKIPPED, "needs a voice"),
    ]


@pytest.mark.parametrize(
    "order", [("", "<error message='late'/>"), ("<error message='late'/>", "")]
)
def test_a_case_whose_teardown_fails_counts_once_and_as_failed(order: tuple[str, str]) -> None:
    twice = "".join(f'<testcase name="a">{part}</testcase>' for part in order)
    assert junit_cases(f"<testsuite>{twice}</testsuite>".encode()) == [
        Case("a", Outcome.FAILED, "late")
    ]


def test_a_failure_without_a_message_tells_its_text_cut_to_a_bound() -> None:
    report = (
        f"<testsuite><testcase name='a'><failure>{'x' * 5_000}</failure></testcase></testsuite>"
    )
    (case,) = junit_cases(report.encode())
    assert case.detail == "x" * MESSAGE_CHARS_MAX


def test_a_short_code_as_message_gives_way_to_the_text_that_explains_it() -> None:
    part = "<failure message='ST202'>ST202 Schema-valid request rejected</failure>"
    (case,) = junit_cases(f"<t><testcase name='POST /a'>{part}</testcase></t>".encode())
    assert case.detail == "ST202 Schema-valid request rejected"


@pytest.mark.parametrize(
    ("file", "classname", "expected"),
    [
        ("tests/test_a.py", "tests.test_a.TestA", "tests/test_a.py::TestA::test_x"),
        ("tests/test_a.py", "tests.test_a", "tests/test_a.py::test_x"),
        ("test_a.py", "", "test_a.py::test_x"),
        ("", "anything", "test_x"),
        ("suite.mjs", "test", "test_x"),
    ],
)
def test_a_case_is_named_as_its_runner_names_it(file: str, classname: str, expected: str) -> None:
    assert case_name(file, classname, title="test_x") == expected


def test_a_warning_of_the_canary_is_no_failure() -> None:
    statuses = ("pass", "warn", "fail", "skip")
    report = {"results": [{"id": one, "status": one, "summary": "told"} for one in statuses]}
    outcomes = [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED]
    assert canary_cases(report) == [
        Case(name, outcome, "told") for name, outcome in zip(statuses, outcomes, strict=True)
    ]


def check(name: str, status: str) -> dict[str, object]:
    return {"id": name, "status": status, "assertion": "it holds", "measured": {"n": 1}}


def test_the_provider_check_may_warn_only_of_what_is_expected() -> None:
    checks = [check("a", "PASS"), check("b", "warn"), check("c", "skip"), check("d", "warn")]
    cases = provider_cases({"checks": checks}, {"b": "known", "c": "not here"})
    assert cases == [
        Case("a", Outcome.PASSED),
        Case("b", Outcome.SKIPPED, "known"),
        Case("c", Outcome.SKIPPED, "not here"),
        Case("d", Outcome.FAILED, 'warn: it holds: {"n": 1}'),
    ]


def test_the_provider_check_may_not_fail_even_what_is_expected() -> None:
    (case,) = provider_cases({"checks": [check("b", "fail")]}, {"b": "known"})
    assert case.outcome is Outcome.FAILED


def test_a_suite_passes_only_with_cases_and_without_failures() -> None:
    passed, failed = Case("a", Outcome.PASSED), Case("b", Outcome.FAILED, "why")
    assert result(passed).status is Outcome.PASSED
    assert result(passed, failed).status is Outcome.FAILED
    assert result().status is Outcome.FAILED
    assert result(missing="no network").status is Outcome.SKIPPED


def test_what_was_left_out_is_summed_by_its_reason() -> None:
    left = [Case(str(number), Outcome.SKIPPED, "stored") for number in range(3)]
    found = result(*left, Case("x", Outcome.SKIPPED, "other"), Case("y", Outcome.PASSED))
    assert found.left_out == [("stored", 3), ("other", 1)]


def test_a_line_and_a_row_tell_the_counts() -> None:
    found = result(Case("a", Outcome.PASSED), Case("b", Outcome.FAILED), Case("c", Outcome.SKIPPED))
    assert "1 passed, 1 failed, 1 skipped in 3 s" in line(found)
    assert table([found])[-1] == "| a suite | 1.2 | 1 | 1 | 1 |"


def test_a_suite_that_could_not_be_had_says_why_everywhere() -> None:
    found = result(missing="npm is not installed")
    assert "skipped: npm is not installed" in line(found)
    assert "not run" in table([found])[-1]
    assert "Not run: npm is not installed" in page([found])
    (told,) = document([found], at="now")["suites"]
    assert (told["status"], told["reason"]) == ("skipped", "npm is not installed")


def test_the_document_holds_counts_failures_and_reasons() -> None:
    found = result(
        Case("a", Outcome.PASSED),
        Case("b", Outcome.FAILED, "why"),
        Case("c", Outcome.SKIPPED, "stored"),
    )
    (told,) = json.loads(json.dumps(document([found], at="now")))["suites"]
    assert (told["passed"], told["failed"], told["skipped"]) == (1, 1, 1)
    assert told["failures"] == [{"case": "b", "detail": "why"}]
    assert told["left_out"] == [{"reason": "stored", "cases": 1}]


def test_the_page_shows_each_reason_with_its_count_and_each_failure() -> None:
    found = result(Case("b", Outcome.FAILED, "why"), Case("c", Outcome.SKIPPED, "stored"))
    told = page([found])
    assert "* FAILED b: why" in told
    assert "* left out, 1: stored" in told
