"""How far `penstock miner up` is: a bar on a terminal, else a line for each step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penstock.cli.output import error_console

STEPS = 6
Told = Callable[[int, str], None]
"""(how many of STEPS are done, what is done now)."""


@contextmanager
def progress(*, quiet: bool) -> Iterator[Told]:
    """Hands out what to tell the progress to."""
    if quiet:
        yield lambda _done, _step: None
        return
    if not error_console().is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("penstock miner"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task("starting", total=STEPS)
        yield lambda done, step: bar.update(task, description=step, completed=done)


def _lines() -> Told:
    told = ""

    def show(done: int, step: str) -> None:
        nonlocal told
        if step != told:
            click.echo(f"penstock miner: {step} ({done} of {STEPS})", err=True)
        told = step

    return show
