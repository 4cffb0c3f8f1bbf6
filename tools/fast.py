"""Compile the twins in C of the relay's inner loops beside their Python: `make fast` (ADR 15).

Never in anybody's way: without a compiler or Python's headers it says so in one line and ends well,
and Penstock runs on the Python ones.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "penstock" / "kit" / "wire" / "_scan.c"
FLAGS = ("-O2", "-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra")
DEADLINE_S = 60


def build(source: Path, folder: Path, *, compiler: str = "gcc") -> Path:
    """The extension module, in place only when it is whole. Raises OSError, SubprocessError."""
    target = folder / (source.stem + str(sysconfig.get_config_var("EXT_SUFFIX")))
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    headers = f"-I{sysconfig.get_path('include')}"
    command = [compiler, *FLAGS, headers, str(source), "-o", str(unfinished)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
        unfinished.replace(target)  # a process that runs keeps the file it has
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def main(*, compiler: str = "gcc", folder: Path = SOURCE.parent) -> int:
    """Build, or say in one line why not."""
    try:
        build(SOURCE, folder, compiler=compiler)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        line = " ".join(said.split())[:160]
        print(f"not compiled, Penstock runs on pure Python ({line}); install gcc, then: make fast")
        for stale in folder.glob(f"{SOURCE.stem}*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            stale.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
