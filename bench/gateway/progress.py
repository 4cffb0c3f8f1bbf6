"""How far the run is, on stderr: a bar where somebody looks on, else a line a step."""

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

BAR_CHARS = 28


@dataclass(slots=True)
class Progress:
    """`step` before each piece of work, `note` for what is worth a line."""

    total: int
    out: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    began_s: float = field(default_factory=time.monotonic)

    def step(self, what: str) -> None:
        """The next piece begins."""
        self._show(what)
        self.done += 1

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write(f"{self._clear()}{text}\n")

    def finish(self) -> None:
        """All is done."""
        self._show("done")
        if self.out.isatty():
            self._write("\n")

    def _show(self, what: str) -> None:
        share = min(1.0, self.done / max(1, self.total))
        filled = round(BAR_CHARS * share)
        bar = "#" * filled + "." * (BAR_CHARS - filled)
        spent_s = time.monotonic() - self.began_s
        text = f"[{bar}] {self.done}/{self.total} {spent_s:4.0f} s  {what}"
        self._write(f"{self._clear()}{text}" if self.out.isatty() else f"{text}\n")

    def _clear(self) -> str:
        return "\r\033[K" if self.out.isatty() else ""

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
