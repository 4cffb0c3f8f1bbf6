"""An agent in a process of its own, to be killed: `python agent.py HOME MODE`. It launches and waits."""

import asyncio
import os
import sys
from pathlib import Path

from tests.runtime_grounds import DEADLINE_MS, make_task

from penstock.adapters.runtimes.process import ProcessConfig, ProcessRuntime
from penstock.kit.clock import SystemClock


async def main(home: Path, mode: str) -> None:
    config = ProcessConfig(path="")
    runtime = await ProcessRuntime.open(home, config, clock=SystemClock(), entropy=os.urandom)
    print("opened", flush=True)
    running = await runtime.launch(make_task(mode), deadline_ms=DEADLINE_MS)
    print(running.address, flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
