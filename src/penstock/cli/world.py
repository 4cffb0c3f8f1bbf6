"""The command line's hold on the real world: chance, waiting, and a stopwatch."""

import os
import time

ENTROPY = os.urandom  # tidy: ambient -- the one place where the command line takes chance


def pause(seconds: float) -> None:
    """Wait between two looks at something that another process does."""
    time.sleep(seconds)  # tidy: ambient -- commands wait in real time


def stopwatch() -> float:
    """Seconds from an arbitrary zero."""
    return time.perf_counter()  # tidy: ambient -- what a person sees is real time
