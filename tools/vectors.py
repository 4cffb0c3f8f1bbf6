"""Writes and checks the test vectors: `vectors/<module>/<function>/<case>.json`.

    python tools/vectors.py           write every vector from the law as it is now
    python tools/vectors.py --check   change nothing; exit 1 and say what differs

A vector is `{"input": ..., "output": ...}` or `{"input": ..., "error": "<class>"}`. The cases stand
in `tools/cases/<module>.py`, one file for each module of the law. Such a file defines

    FUNCTIONS = {"<function>": (run, {"<case>": input, ...}), ...}

where `run` takes the plain input, calls the law, and gives plain output. A new file there is found
by itself. A vector that changes is a change of the protocol: other implementations read them.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.spec.errors import SpecError

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tools" / "cases"
VECTORS = ROOT / "vectors"
NOT_VECTORS = frozenset({"README.md"})

Run = Callable[[Any], Any]
Functions = Mapping[str, tuple[Run, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Vector:
    """One case: where it is written, what goes in, and what runs it."""

    path: Path
    given: Any
    run: Run

    def text(self) -> str:
        """The file as the law writes it now."""
        return json.dumps({"input": self.given, **outcome(self.run, self.given)}, indent=1) + "\n"


def outcome(run: Run, given: Any) -> dict[str, Any]:
    """What the law answers: an output, or the name of the error."""
    try:
        return {"output": run(given)}
    except SpecError as error:
        return {"error": type(error).__name__}


def all_vectors(vectors: Path = VECTORS) -> Iterator[Vector]:
    """Every case of every module, in order of path."""
    for file in sorted(CASES.glob("*.py")):
        for function, (run, cases) in sorted(_functions(file).items()):
            for case, given in sorted(cases.items()):
                yield Vector(vectors / file.stem / function / f"{case}.json", given, run)


def strangers(vectors: Path = VECTORS) -> list[Path]:
    """Files under vectors/ that no case stands for: nothing would ever open them."""
    known = {vector.path for vector in all_vectors(vectors)}
    known |= {vectors / name for name in NOT_VECTORS}
    return sorted(path for path in vectors.rglob("*") if path.is_file() and path not in known)


def differences(vectors: Path = VECTORS) -> list[str]:
    """What `--check` says: one line for each vector that is missing, different or unknown."""
    lines = [f"unknown: {path}" for path in strangers(vectors)]
    for vector in all_vectors(vectors):
        if not vector.path.exists():
            lines.append(f"missing: {vector.path}")
        elif vector.path.read_text() != vector.text():
            lines.append(f"different: {vector.path}")
    return lines


def write(vectors: Path = VECTORS) -> int:
    """Write every vector and say how many there are. Unknown files are left for `--check`."""
    count = 0
    for vector in all_vectors(vectors):
        vector.path.parent.mkdir(parents=True, exist_ok=True)
        vector.path.write_text(vector.text())
        count += 1
    return count


def main(arguments: list[str]) -> int:
    """The command line. Exit status 1: the vectors are not those of the law as it is now."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    if not arguments:
        print(f"{write()} vectors written to {VECTORS}; see what changed with: git diff vectors")
        return 0
    lines = differences()
    for line in lines:
        print(line)
    if lines:
        print("the law and its vectors differ; if that is meant, run: make vectors")
    return 1 if lines else 0


def _functions(file: Path) -> Functions:
    spec = importlib.util.spec_from_file_location(f"vector_cases_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions: Functions = module.FUNCTIONS
    return functions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
