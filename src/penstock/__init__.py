"""Penstock: an open market for AI inference.

ARCHITECTURE.md walks a request through the packages. `penstock.Client` and `penstock.AsyncClient`
are what callers import; they are loaded when first named, so that the law stays light.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in __all__:
        from penstock.client import client

        return getattr(client, name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
