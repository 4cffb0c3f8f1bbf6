"""What suites say, read from their own reports, and how it is told: a line, a table, a JSON object.

Every report becomes Cases, so that a suite of a Python package, of an npm package and a checker with
a report of its own count alike.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MESSAGE_CHARS_MAX = 600
_LEFT_OUT = {"skipped", "disabled"}


class Outcome(StrEnum):
    """How one case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a suite. `detail` says why it failed or was skipped."""

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A suite that was run, or, with `missing`, one that could not be had and why."""

    suite: str
    version: str
    cases: tuple[Case, ...]
    seconds: int
    missing: str = ""

    def count(self, outcome: Outcome) -> int:
        return sum(case.outcome is outcome for case in self.cases)

    @property
    def failures(self) -> list[Case]:
        return [case for case in self.cases if case.outcome is Outcome.FAILED]

    @property
    def left_out(self) -> list[tuple[str, int]]:
        """(reason, how many cases), the most frequent first."""
        found = Counter(case.detail for case in self.cases if case.outcome is Outcome.SKIPPED)
        return found.most_common()

    @property
    def status(self) -> Outcome:
        if self.missing:
            return Outcome.SKIPPED
        return Outcome.FAILED if self.failures or not self.cases else Outcome.PASSED


def junit_cases(report: bytes) -> list[Case]:
    """Cases of a JUnit report: pytest's (xunit1), schemathesis' or node's. Raises ParseError.

    A test whose setup or teardown failed as well stands in the report twice and counts once.
    """
    cases: dict[str, Case] = {}
    for node in ET.fromstring(report).iter("testcase"):
        case = _junit_case(node)
        known = cases.get(case.name)
        if known is None or known.outcome is not Outcome.FAILED:
            cases[case.name] = case
    return list(cases.values())


def _junit_case(node: ET.Element) -> Case:
    name = case_name(node.get("file", ""), node.get("classname", ""), title=node.get("name", ""))
    for part in node:
        if part.tag in {"failure", "error"}:
            return Case(name, Outcome.FAILED, _told(part))
        if part.tag in _LEFT_OUT:
            return Case(name, Outcome.SKIPPED, _told(part))
    return Case(name, Outcome.PASSED)


def case_name(file: str, classname: str, *, title: str) -> str:
    """As pytest names a test: `tests/test_a.py::TestA::test_it[strict]`; without a file, the title."""
    if not file.endswith(".py"):
        return title
    last = classname.rpartition(".")[2]
    is_class = last and last != file.rpartition("/")[2].removesuffix(".py")
    return f"{file}::{last}::{title}" if is_class else f"{file}::{title}"


def _told(part: ET.Element) -> str:
    """What a report says of a case, on one line: the message, or, where that is but a code, the text
    below it.
    """
    message, text = part.get("message") or "", part.text or ""
    told = message if " " in message or not text else text
    return re.sub(r"\s+", " ", told).strip()[:MESSAGE_CHARS_MAX]


def canary_cases(report: dict[str, Any]) -> list[Case]:
    """Cases of compatcanary's report (`compatcanary.report.v1`). A warning is no failure."""
    outcomes = {"fail": Outcome.FAILED, "skip": Outcome.SKIPPED}
    return [
        Case(one["id"], outcomes.get(one["status"], Outcome.PASSED), one["summary"])
        for one in report["results"]
    ]


def provider_cases(report: dict[str, Any], expected: dict[str, str]) -> list[Case]:
    """Cases of trustedrouter-provider-check's report. What it only warns of, or skips, counts as
    skipped and must be in `expected` (check -> why), or else it is a failure.
    """
    cases = []
    for one in report["checks"]:
        name, status = one["id"], one["status"].lower()
        if status == "pass":
            cases.append(Case(name, Outcome.PASSED))
        elif status in {"warn", "skip"} and name in expected:
            cases.append(Case(name, Outcome.SKIPPED, expected[name]))
        else:
            told = f"{status}: {one['assertion']}: {json.dumps(one['measured'])}"
            cases.append(Case(name, Outcome.FAILED, told[:MESSAGE_CHARS_MAX]))
    return cases


def line(result: Result) -> str:
    """One line for whoever waits."""
    head = f"{result.suite:<16} {result.version:<10}"
    if result.missing:
        return f"{head} skipped: {result.missing}"
    counts = ", ".join(f"{result.count(outcome)} {outcome}" for outcome in Outcome)
    return f"{head} {result.status:<7} {counts} in {result.seconds} s"


def table(results: Sequence[Result]) -> list[str]:
    """A Markdown table, a suite a row."""
    rows = ["| suite | version | passed | failed | skipped |", "|---|---|---:|---:|---:|"]
    for result in results:
        counts = [str(result.count(outcome)) for outcome in Outcome]
        if result.missing:
            counts = ["", "", "not run"]
        rows.append(f"| {result.suite} | {result.version} | {' | '.join(counts)} |")
    return rows


def document(results: Iterable[Result], *, at: str) -> dict[str, Any]:
    """What `bench/out/conformance.json` holds."""
    return {
        "at": at,
        "suites": [
            {
                "suite": result.suite,
                "version": result.version,
                "status": result.status.value,
                **{outcome.value: result.count(outcome) for outcome in Outcome},
                "seconds": result.seconds,
                "reason": result.missing,
                "left_out": [
                    {"reason": reason, "cases": count} for reason, count in result.left_out
                ],
                "failures": [
                    {"case": case.name, "detail": case.detail} for case in result.failures
                ],
            }
            for result in results
        ],
    }


def page(results: Sequence[Result]) -> str:
    """docs/conformance.md."""
    lines = [
        "<!-- Written by `make conformance`; edit conformance/results.py instead. -->",
        "",
        "# Conformance",
        "",
        "`make conformance` starts a market on this machine (real gateway, ledger and miners; the",
        "development engine for every modality and the small chat model) and runs against it the test",
        "suites inside the source distributions of `openai` (both majors) and `anthropic`, and stock",
        "clients, each in an environment of its own with pinned versions. What is left out stands with",
        "its reason in `conformance/scopes/`; nothing else may fail.",
        "",
        *table(results),
    ]
    for result in results:
        if result.missing:
            lines += ["", f"## {result.suite}", "", f"Not run: {result.missing}"]
        elif result.left_out or result.failures:
            lines += ["", f"## {result.suite}", ""]
            lines += [f"* FAILED {case.name}: {case.detail}" for case in result.failures]
            lines += [f"* left out, {count}: {reason}" for reason, count in result.left_out]
    return "\n".join(lines) + "\n"
