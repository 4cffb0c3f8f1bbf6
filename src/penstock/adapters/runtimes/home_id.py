"""The name of a home in a cluster: random, written down once, so that two homes never share tasks."""

import re
from pathlib import Path

from penstock.kit.ports import Entropy

ID_BYTES = 8
_ID = re.compile(r"[0-9a-f]{16}")


def home_id(home: Path, entropy: Entropy) -> str:
    """16 hex digits of this home, made at the first call. Raises OSError, ValueError for a spoilt file."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "id"
    if not path.exists():
        fresh = home / ".id.new"
        fresh.write_text(entropy(ID_BYTES).hex())
        fresh.replace(path)
    found = path.read_text().strip()
    if _ID.fullmatch(found) is None:
        raise ValueError(
            f"{path} does not hold 16 hex digits. It names this home's tasks in the cluster: restore it, "
            "or remove it (what runs in the cluster then ends by itself after two minutes)."
        )
    return found
