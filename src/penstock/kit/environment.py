"""The process environment, read in one place and never by a station."""

import os
from collections.abc import Iterable


def inherited(names: Iterable[str]) -> dict[str, str]:
    """The named variables that are set: what a child process is given."""
    return {name: os.environ[name] for name in names if name in os.environ}  # noqa: TID251 - the one place that reads it
