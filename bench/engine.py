"""The echo engine as a process of its own: `python -m bench.engine PORT TOKEN_MS SLOTS`.

The market reaches it as it would reach any server at a URL (`openai-http`), so that its CPU is
counted apart from the miner's, and so that the bare engine is the very same process.
"""

import asyncio
import os
import signal
import sys

import uvloop

from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.kit.wire.sockets import Sockets

START_DEADLINE_MS = 10_000
DRAIN_MS = 1_000


async def serve(port: int, token_ms: int, slots_max: int) -> None:
    """Serve until SIGTERM; says `ready` once it listens."""
    settings = EchoSettings(
        token_ms=token_ms, slots_max=slots_max, queue_max=4 * slots_max, port=port
    )
    engine = Echo(settings, network=Sockets(), entropy=os.urandom)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await engine.start(deadline_ms=START_DEADLINE_MS)
    print("ready", flush=True)
    await stopped.wait()
    await engine.stop(deadline_ms=DRAIN_MS)


if __name__ == "__main__":
    uvloop.run(serve(*(int(one) for one in sys.argv[1:4])))
