"""The measured parts of docs/performance.md: `--page` writes them, the words around them are by hand.

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class NoSuchPart(Exception):
    """The page lacks the two marks of a part."""


def put(page: Path, name: str, text: str) -> None:
    """Replace a part of the page. Raises NoSuchPart."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    old = page.read_text()
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise NoSuchPart(f"{page} has no part between {begin.strip()} and {end}")
    page.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")


def machine_line(told: Mapping[str, Any]) -> str:
    """One line on where and when, from `report.describe`."""
    machine = told["machine"]
    versions = ", ".join(f"{name} {one}" for name, one in told["versions"].items() if one)
    skipped = "".join(f" {name} skipped: {why}." for name, why in told["skipped"].items())
    return (
        f"Measured {told['date'][:10]} on {machine['processor']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {machine['python']}, load average "
        f"{machine['load_1min']:.1f} at the end. {versions}.{skipped}"
    )
