"""The closing line of `make test`: how many tests the last runs passed, from their JUnit files."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path) -> int:
    """Add up all reports in a folder; exit 1 when there is none or a test failed."""
    passed = failed = skipped = 0
    for report in sorted(folder.glob("*.xml")):
        for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - our own
            bad = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
            failed += bad
            skipped += int(suite.get("skipped", "0"))
            passed += int(suite.get("tests", "0")) - bad - int(suite.get("skipped", "0"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(run(ROOT / ".test-reports"))
