"""A process of its own that fetches: `python fetcher.py ROOT HUB REFERENCE DIGEST`, progress on stdout."""

import asyncio
import sys
from pathlib import Path

from penstock.adapters.weights.opening import WeightsSettings, open_weights
from penstock.adapters.weights.progress import Progress
from penstock.kit.clock import SystemClock


def say(progress: Progress) -> None:
    print(f"{'waits' if progress.waits else 'done'} {progress.done_bytes}", flush=True)


async def main(root: str, hub: str, reference: str, digest: str) -> None:
    settings = WeightsSettings(reserve_bytes=0, hub_endpoint=hub)
    weights = open_weights(Path(root), settings, clock=SystemClock())
    path = await weights.fetch(reference, digest, on_progress=say)
    print(f"path {path}", flush=True)
    await weights.close()


asyncio.run(main(*sys.argv[1:]))
