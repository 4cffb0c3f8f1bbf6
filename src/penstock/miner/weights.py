"""What the miner needs to know of a chute's weights: that they are here, and how large they are."""

from typing import Protocol

from penstock.spec.messages import Manifest


class Weights(Protocol):
    """The cache of this machine."""

    async def pull(self, manifest: Manifest, *, instance: str) -> None:
        """Return once the weights are here and hold the manifest's digest; they stay while `instance`
        uses them. Raises kit's EngineFailed.
        """
        ...

    def size_bytes(self, manifest: Manifest) -> int:
        """How large they are, 0 when nobody knows."""
        ...

    def drop(self, instance: str) -> None:
        """The instance is gone: what it used may be evicted."""
        ...


class OwnWeights:
    """For engines that come with their weights, or look them up by themselves: nothing to do here."""

    async def pull(self, manifest: Manifest, *, instance: str) -> None:
        """They are here."""

    def size_bytes(self, manifest: Manifest) -> int:
        """Nobody knows."""
        del manifest
        return 0

    def drop(self, instance: str) -> None:
        """Nothing was kept."""
