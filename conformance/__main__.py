"""`make conformance`: foreign suites and stock clients against a market of this machine.

    python -m conformance [--quick] [--only NAME ...] [--against URL]

Prints a line a suite and a table. A whole run writes bench/out/conformance.json and
docs/conformance.md; `--quick` runs the same tests without reading what is out of scope. Exits 1 when
anything fails that the scope lists do not leave out. `--against` tests a gateway that runs already,
with the key in $CONFORMANCE_KEY.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from conformance.grounds import Unavailable
from conformance.market import NoMarket, Target, running_market
from conformance.results import Case, Outcome, Result, document, line, page, table
from conformance.suites import ROOT, SUITES, Suite, SuiteBroke

OUT = ROOT / "bench" / "out" / "conformance.json"
PAGE = ROOT / "docs" / "conformance.md"
FAILURES_SHOWN_MAX = 40


def main() -> int:
    asked = _arguments()
    suites = [suite for suite in SUITES if not asked.only or suite.name in asked.only]
    if not suites:
        sys.stderr.write(f"No such suite. There are: {', '.join(one.name for one in SUITES)}\n")
        return 2
    try:
        with _target(asked.against) as target:
            results = [_run(suite, target, is_quick=asked.quick) for suite in suites]
    except NoMarket as error:
        sys.stderr.write(f"The market did not come up: {error}\n")
        return 1
    _tell(results)
    if len(suites) == len(SUITES) and not asked.quick:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(document(results, at=at), indent=1) + "\n")
        PAGE.write_text(page(results))
    return int(any(result.status is Outcome.FAILED for result in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance")
    parser.add_argument("--quick", action="store_true", help="what counts, in a minute or two")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--against", default="", metavar="URL", help="a gateway that runs already")
    return parser.parse_args()


@contextmanager
def _target(against: str) -> Iterator[Target]:
    if against:
        yield Target(against.rstrip("/"), os.environ["CONFORMANCE_KEY"])
        return
    sys.stdout.write("starting a market\n")
    sys.stdout.flush()
    with running_market() as target:
        yield target


def _run(suite: Suite, target: Target, *, is_quick: bool) -> Result:
    run = suite.hurry if is_quick and suite.hurry is not None else suite.run
    began_s = time.monotonic()
    cases: list[Case] = []
    version = missing = ""
    try:
        version = suite.version()
        cases = run(target)
    except Unavailable as error:
        missing = str(error)
    except SuiteBroke as error:
        cases = [Case("report", Outcome.FAILED, str(error))]
    seconds = round(time.monotonic() - began_s)
    result = Result(suite.name, version, tuple(cases), seconds, missing)
    sys.stdout.write(line(result) + "\n")
    sys.stdout.flush()
    return result


def _tell(results: Sequence[Result]) -> None:
    told = ["", *table(results)]
    for result in results:
        shown = result.failures[:FAILURES_SHOWN_MAX]
        told += [f"FAILED {result.suite}: {case.name}: {case.detail}" for case in shown]
        if len(result.failures) > len(shown):
            told.append(f"... and {len(result.failures) - len(shown)} more of {result.suite}")
    sys.stdout.write("\n".join(told) + "\n")


if __name__ == "__main__":
    sys.exit(main())
