"""Chance by name: every part of a simulated world draws from its own generator.

A stream depends on the seed and on its name alone, so that one more draw in one part does not move
the draws of all the others, and a failing seed stays the same story while one reads it.
"""

from random import Random

from penstock.kit.ports import Entropy


class Chance:
    """All chance of one world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str) -> Random:
        """A fresh generator; the same name gives the same draws."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - a simulation wants to be predictable

    def entropy(self, name: str) -> Entropy:
        """The Entropy port out of a stream."""
        return self.stream(name).randbytes
