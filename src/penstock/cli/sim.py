"""`penstock sim`: whole markets on virtual time, a seed each; a broken rule is an exit status of 1."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from penstock.cli.output import error_console, json_option, print_json, print_table
from penstock.kit.clock import SystemClock

PROCESSES_MAX = 2
SEEDS_FILE = Path("tests/sim/seeds.txt")
BROKEN_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Story:
    """One seed's result as plain values, and how long it took in real time."""

    result: dict[str, Any]
    wall_ms: int

    @property
    def seed(self) -> int:
        """Which one."""
        return int(self.result["seed"])

    @property
    def broken(self) -> list[dict[str, Any]]:
        """The rules that did not hold."""
        return list(self.result["broken"])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.result, "wall_ms": self.wall_ms}


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="The seed of the first world.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Virtual hours of trade.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="How many seeds in a row.")
@click.option("--from", "first", type=int, default=None, help="The same as --seed, with --seeds.")
@json_option
def sim(*, seed: int, hours: float, seeds: int, first: int | None, as_json: bool) -> None:
    """Play whole markets on virtual time, with adversaries, and check every rule.

    The same seed gives the same story on every machine. A seed that breaks a rule is remembered in
    tests/sim/seeds.txt when that file is there.
    """
    start = seed if first is None else first
    chosen = list(range(start, start + seeds))
    failed: list[Story] = []
    done: list[Story] = []
    for story in _played(chosen, hours):
        done.append(story)
        if story.broken:
            failed.append(story)
            _remember(story.seed, hours)
        if not as_json:
            _tell(story, hours)
    done.sort(key=lambda story: story.seed)
    if as_json:
        print_json({"hours": hours, "runs": [one.plain() for one in done], "failed": len(failed)})
    elif len(done) > 1:
        click.echo(f"{len(done) - len(failed)} of {len(done)} worlds kept every rule.")
    if failed:
        sys.exit(1)


def _played(chosen: list[int], hours: float) -> Iterator[Story]:
    """Stories as they end. Several seeds are played in processes of their own."""
    if len(chosen) == 1:
        yield _story(_play_here(chosen[0], hours))
        return
    # Fresh interpreters: a world must owe nothing to the one before it.
    context = get_context("spawn")
    with ProcessPoolExecutor(max_workers=PROCESSES_MAX, mp_context=context) as pool:
        running = [pool.submit(play, seed, hours) for seed in chosen]
        for future in as_completed(running):
            yield _story(future.result())


def _play_here(seed: int, hours: float) -> str:
    """One seed with a line of progress on a terminal."""
    if not sys.stderr.isatty():
        return play(seed, hours)
    with error_console().status(f"seed {seed}") as status:

        def show(now_ms: int, length_ms: int) -> None:
            share = min(99, now_ms * 100 // max(1, length_ms))
            status.update(
                f"seed {seed}: {now_ms // 1000} s of virtual time, {share} % of the trade"
            )

        return play(seed, hours, show)


def play(seed: int, hours: float, progress: Any = None) -> str:
    """One world, as JSON: that is what crosses from one process to another."""
    from penstock.sim.world import simulate

    clock = SystemClock()
    began_us = clock.mono_us()
    result = simulate(seed, hours=hours, progress=progress).plain()
    wall_ms = (clock.mono_us() - began_us) // 1000
    return json.dumps({"result": result, "wall_ms": wall_ms})


def _story(text: str) -> Story:
    value = json.loads(text)
    return Story(result=value["result"], wall_ms=value["wall_ms"])


def _tell(story: Story, hours: float) -> None:
    result, counts = story.result, story.result["counts"]
    virtual_s, wall_s = result["virtual_ms"] / 1000, story.wall_ms / 1000
    click.echo(
        f"seed {story.seed}  trace {result['trace'][:16]}  {result['events']} events  "
        f"{virtual_s:.0f} s virtual in {wall_s:.1f} s (x{virtual_s / max(wall_s, 0.001):.0f})"
    )
    outcomes = ", ".join(f"{count} {name}" for name, count in result["outcomes"].items())
    click.echo(f"  {counts.get('requests', 0)} requests; orders: {outcomes or 'none judged'}")
    faults = ", ".join(
        f"{count} {name.removeprefix('fault ')}"
        for name, count in counts.items()
        if name.startswith("fault ")
    )
    click.echo(f"  faults: {faults or 'none'}")
    click.echo(
        f"  {result['epochs_settled']} epochs settled, {result['epochs_audited']} audited from the "
        f"published files; books and log checked {result['checks']} times"
    )
    if not story.broken:
        click.echo("  every rule held")
        return
    rows = [
        (one["check"], f"{one['at_ms'] / 1000:.3f} s", one["detail"])
        for one in story.broken[:BROKEN_SHOWN_MAX]
    ]
    print_table(("broken rule", "at", "what was seen"), rows, empty="")
    click.echo(
        f"  {len(story.broken)} findings. Again: penstock sim --seed {story.seed} --hours {hours}"
    )


def _remember(seed: int, hours: float) -> None:
    """Keep a failing seed for ever, where there is a list of them."""
    if not SEEDS_FILE.is_file():
        return
    line = f"{seed} {hours}"
    text = SEEDS_FILE.read_text("utf-8")
    if line not in text.splitlines():
        SEEDS_FILE.write_text(f"{text.rstrip()}\n{line}\n", "utf-8")
