"""The two ends of the bench in C, compiled here on first use: the mock upstream and the load."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
BUILD = Path(__file__).parent / "build"
FLAGS = ("-std=c17", "-O2", "-Wall", "-Wextra", "-Werror")
PARTS = {
    "mock": ("mock.c", "sidecar.c", "miner.c", "sha256.c", "text.c", "wire.c"),
    "load": ("load.c", "text.c", "wire.c"),
    "check": ("check.c", "miner.c", "sha256.c", "text.c"),
}


def program(name: str, *, folder: Path = BUILD) -> Path:
    """The path of a program of PARTS, compiled if a source is newer. Raises RuntimeError."""
    target = folder / name
    sources = [SOURCES / one for one in PARTS[name]]
    newest = max(one.stat().st_mtime for one in SOURCES.iterdir())
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("There is no C compiler. Install one: apt-get install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{name}.{os.getpid()}"
    done = subprocess.run(
        [compiler, *FLAGS, "-o", str(fresh), *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} does not compile:\n{done.stderr}")
    fresh.replace(target)  # two who compile at once do not see each other's halves
    return target
