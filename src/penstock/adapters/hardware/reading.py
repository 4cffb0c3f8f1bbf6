"""How files and programs of the system are asked; both come as arguments, so a test can be any machine."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

RUN_DEADLINE_S = 15
OUTPUT_BYTES_MAX = 4 << 20

Reader = Callable[[str], str]
"""Path -> the text of that file. Raises OSError."""
Runner = Callable[[tuple[str, ...]], str]
"""A program with its arguments -> what it prints; "" where it is missing or fails."""


def read_text(path: str) -> str:
    """A file of this system. Raises OSError."""
    return Path(path).read_text("utf-8", errors="replace")


def run_program(argv: tuple[str, ...]) -> str:
    """Run a system's program without a shell. Never raises: a machine without it has none."""
    program = shutil.which(argv[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            (program, *argv[1:]), capture_output=True, timeout=RUN_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout[:OUTPUT_BYTES_MAX].decode("utf-8", errors="replace")


def text_or(read: Reader, path: str, otherwise: str = "") -> str:
    """The text without blanks around it, or `otherwise` where it cannot be read."""
    try:
        return read(path).strip()
    except OSError:
        return otherwise


def number_or_none(read: Reader, path: str) -> int | None:
    """The whole number that a file holds."""
    text = text_or(read, path)
    return int(text) if text.removeprefix("-").isdigit() and text.isascii() else None
