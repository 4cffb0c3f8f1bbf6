"""The closing line of `make test`: how many tests passed, from the JUnit files of its runs.

A property runs twice, with few examples and in full: it is one test, and has failed if it ever did.
"""

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("skipped", "passed", "failed")
"""Of a test that ran more than once, the last of these that it came to is told."""


def run(folder: Path) -> int:
    """Add up all reports in a folder; exit 1 when there is none or a test failed."""
    ends: dict[tuple[str, str], str] = {}
    for report in sorted(folder.glob("*.xml")):
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own
            test = (case.get("classname", ""), case.get("name", ""))
            ends[test] = max(ends.get(test, ENDS[0]), end_of(case), key=ENDS.index)
    counts = Counter(ends.values())
    print(", ".join(f"{counts[end]} {end}" for end in ("passed", "failed", "skipped")))
    return 0 if counts["passed"] and not counts["failed"] else 1


def end_of(case: ET.Element) -> str:
    tags = {child.tag for child in case}
    if tags & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in tags else "passed"


if __name__ == "__main__":
    sys.exit(run(ROOT / ".test-reports"))
