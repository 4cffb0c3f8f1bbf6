"""All benches, or the named ones: `python bench/run.py [--quick] [start] [way] [intake] [costs]`.

Each prints a table and writes `bench/out/NAME.json`. There are no pass marks: a number is only worth
something beside the others of the same run.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The folder `bench` is a package next to `tests`, not a place to import from.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import costs, intake, plot, start, way
from bench.figures import OUT, Figure, table, write

Bench = Callable[..., list[Figure]]
BENCHES: dict[str, Bench] = {
    "start": start.measure,
    "costs": costs.measure,
    "intake": intake.measure,
    "way": way.measure,
}


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="short rows: shows only that it runs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON files")
    parser.add_argument("--plot", type=Path, help="draw the CPU of a request into this file")
    wish = parser.parse_args(arguments)
    for name in wish.names or BENCHES:
        began = time.perf_counter()
        figures = BENCHES[name](quick=wish.quick)
        path = write(name, figures, folder=wish.out)
        print(f"\n## {name} ({time.perf_counter() - began:.0f} s, {path})\n\n{table(figures)}")
    if wish.plot is not None:
        plot.draw(wish.out / "way.json", wish.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
