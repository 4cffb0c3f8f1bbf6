"""Names that every runtime can use: DNS labels."""

import re
from hashlib import sha256

from penstock.kit.runtime import TASK_NAME_CHARS_MAX

DIGEST_CHARS = 8


def task_name(name: str) -> str:
    """`name` as it is when it is a label; otherwise a label that is like it and that only it gets."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if name and label == name and len(name) <= TASK_NAME_CHARS_MAX:
        return name
    mark = sha256(name.encode()).hexdigest()[:DIGEST_CHARS]
    head = label[: TASK_NAME_CHARS_MAX - DIGEST_CHARS - 1].strip("-")
    return f"{head}-{mark}".strip("-")
