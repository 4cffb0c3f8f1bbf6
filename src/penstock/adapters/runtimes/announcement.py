"""What a task says on stdout when it has chosen its port: one JSON line with `address` or `error`.

Runtimes whose tasks have an address of their own (containers, clusters) take the port and nothing else
of it: where the task really is, they know better. The holder of a process reads the same line itself.
"""

import json
import re
from dataclasses import dataclass

ADDRESS = re.compile(r"http://[0-9A-Za-z.\-\[\]:]{1,64}?:([1-9][0-9]{0,4})/?")
LINE_BYTES_MAX = 1 << 16
ERROR_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Announcement:
    """port: 1 to 65535, 0 with an error."""

    port: int
    error: str


def announced(stdout: bytes) -> Announcement | None:
    """The first complete line that announces; None when there is none yet."""
    for line in stdout.split(b"\n")[:-1]:
        if not line.lstrip().startswith(b"{") or len(line) > LINE_BYTES_MAX:
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue  # Some other line that starts with a brace.
        if isinstance(said, dict) and {"address", "error"} & set(said):
            return _read(str(said.get("address") or ""), str(said.get("error") or ""))
    return None


def _read(address: str, error: str) -> Announcement:
    match = ADDRESS.fullmatch(address)
    if error or match is None or int(match[1]) > 65535:
        wrong = error or f"it announced {address[:100]!r}, which is no address"
        return Announcement(port=0, error=wrong[:ERROR_CHARS_MAX])
    return Announcement(port=int(match[1]), error="")
