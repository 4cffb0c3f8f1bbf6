"""A station as a process of its own: its arguments, its loop, its signals, and what is told at its end.

Exit statuses: 0 it was told to stop, 1 it ended for a reason that a person has to act on, 2 its
arguments or its configuration cannot be used.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from penstock.kit.log import events
from penstock.kit.ports import BusDown, StoreDown

CONFIG_UNUSABLE = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
START_RETRY_MS = 1_000

_log = events("process")


def config_parser(prog: str, about: str | None) -> argparse.ArgumentParser:
    """A station's command line; `config` is the path of its configuration."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--config", required=True, type=Path, help="the configuration, JSON")
    return parser


def refused_config(path: Path, error: Exception) -> int:
    """Say why a configuration cannot be used; the exit status."""
    say(f"The configuration {path} cannot be used: {error}. Correct it.")
    return CONFIG_UNUSABLE


def run_process(
    work: Coroutine[Any, Any, None],
    *,
    stoppers: tuple[type[Exception], ...],
    tell: Callable[[str], None],
) -> int:
    """Run a station to its end, on uvloop: it serves the same bytes for half of what asyncio's own
    loop takes. The exit status; `tell` gets each reason of `stoppers`. Other errors are bugs and
    end with their traceback.
    """
    status = 0
    try:
        uvloop.run(work)
    except* stoppers as group:
        status = 1
        for reason in reasons(group):
            tell(reason)
    return status


def reasons(group: BaseExceptionGroup[BaseException]) -> list[str]:
    """What the errors of a group say, however deep the scopes were."""
    found: list[str] = []
    for error in group.exceptions:
        found += reasons(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return found


def say(text: str) -> None:
    """A line for whoever started the process."""
    sys.stderr.write(f"{text}\n")


def stop_asked() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on. Call it in the loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop


async def when_up(
    what: str, prepare: Callable[[], Awaitable[None]], *, retry_ms: int = START_RETRY_MS
) -> None:
    """Servers of one operator start in any order: try until this one answers."""
    while True:
        try:
            await prepare()
        except (StoreDown, BusDown) as error:
            _log.warning(f"{what}.awaited", why=str(error))
            await asyncio.sleep(retry_ms / 1000)
        else:
            return
