"""What the miner needs to know of a chute's weights: that they are here, and how large they are."""

from collections.abc import Callable
from typing import Protocol

from penstock.spec.messages import Manifest

Say = Callable[[str], None]
"""Told how far a fetch is, in words for people, a few times a second."""


class Weights(Protocol):
    """The cache of this machine."""

    async def pull(self, manifest: Manifest, *, instance: str, say: Say) -> None:
        """Return once the weights are here and hold the manifest's digest; they stay while `instance`
        uses them. Raises kit's EngineFailed.
        """
        ...

    def size_bytes(self, manifest: Manifest) -> int:
        """How large they are, 0 when nobody knows."""
        ...

    def drop(self, manifest: Manifest, *, instance: str) -> None:
        """The instance is gone: what it used may be evicted. Twice is harmless."""
        ...


class OwnWeights:
    """For engines that come with their weights, or look them up by themselves: nothing to do here."""

    async def pull(self, manifest: Manifest, *, instance: str, say: Say) -> None:
        """They are here."""

    def size_bytes(self, manifest: Manifest) -> int:
        """Nobody knows."""
        del manifest
        return 0

    def drop(self, manifest: Manifest, *, instance: str) -> None:
        """Nothing was kept."""
