"""A miner's own placement: found by an entry point's name, or loaded from a file of the owner.

The code runs with the miner's rights, so a file that others could write is refused.
"""

import importlib.util
import stat
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from penstock.adapters.errors import FileExposed

GROUP = "penstock.placement"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MODULE = "penstock_own_placement"


class PlacementUnusable(Exception):
    """No placement could be had of this name or file."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The placement {name!r} cannot be used: {reason}.")
        self.name = name
        self.reason = reason


class FunctionPlacement:
    """A module's function `choose` as a placement."""

    def __init__(self, function: Any) -> None:
        self.choose = function


class OwnPlacement:
    """The placement of this name, loaded when it is first asked: what is wrong with its code is met where
    the errors of placements are met, and costs the miner nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: Any = None

    def choose(self, situation: Any) -> Any:
        """Raises whatever the owner's code raises, PlacementUnusable, FileExposed."""
        if self._loaded is None:
            self._loaded = load_placement(self._name)
        return self._loaded.choose(situation)


def load_placement(name: str) -> Any:
    """An object with `choose(situation)`. Raises PlacementUnusable, FileExposed."""
    try:
        found = _from_file(Path(name)) if name.endswith(".py") else _from_entry_point(name)
    except (ImportError, SyntaxError, AttributeError, NameError, TypeError, ValueError) as error:
        raise PlacementUnusable(name, f"{type(error).__name__}: {error}") from error
    if isinstance(found, type):
        found = found()
    if callable(found):
        return FunctionPlacement(found)
    if not callable(getattr(found, "choose", None)):
        raise PlacementUnusable(name, "it has no function `choose(situation)`")
    return found


def _from_file(path: Path) -> Any:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise PlacementUnusable(str(path), str(error)) from error
    if mode & OTHERS_WRITE:
        raise FileExposed(path=path, mode=stat.S_IMODE(mode))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_entry_point(name: str) -> Any:
    for one in entry_points(group=GROUP, name=name):
        return one.load()
    raise PlacementUnusable(name, f"nothing that is installed offers it ({GROUP})")
