"""All benches, or the named ones: `python bench/run.py [--quick] [start] [way] [intake] [scoring] [costs]`.

Each prints a table and writes `bench/out/NAME.json`. There are no pass marks: a number is only worth
something beside the others of the same run.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

BENCHES = ("start", "costs", "gateway_costs", "intake", "scoring", "way")


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    from bench.figures import OUT, table, write
    from bench.plot import draw

    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="short rows: shows only that it runs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON files")
    parser.add_argument("--plot", type=Path, help="draw the CPU of a request into this file")
    wish = parser.parse_args(arguments)
    unknown = sorted(set(wish.names) - set(BENCHES))
    if unknown:
        parser.error(f"there is no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    for name in wish.names or BENCHES:
        began = time.perf_counter()
        figures = importlib.import_module(f"bench.{name}").measure(quick=wish.quick)
        path = write(name, figures, folder=wish.out)
        took_s = time.perf_counter() - began
        print(f"\n## {name} ({took_s:.0f} s, {path})\n\n{table(figures)}", flush=True)
    if wish.plot is not None:
        draw(wish.out / "way.json", wish.plot)
    return 0


if __name__ == "__main__":
    # `bench` is a package beside `tests`, whose makers it uses, and no place to import from.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
