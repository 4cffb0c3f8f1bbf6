"""penstock up: the whole market on this machine, one command."""

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penstock.cli.errors import Stop
from penstock.cli.home import Home, read_json, write_json
from penstock.cli.market import Market, Told
from penstock.cli.options import home_option
from penstock.cli.output import console, error_console
from penstock.cli.plan import (
    GATEWAY_WORKERS_MAX,
    MINERS_MAX,
    VALIDATORS_MAX,
    Wish,
    check_engines,
    make_plan,
)
from penstock.cli.world import pause
from penstock.kit import log

DEFAULT_PORT = 8400
DETACH_DEADLINE_S = 240
CHECK_EVERY_S = 0.1


@click.command()
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(1, 65_535),
    help="The gateway's port.",
)
@click.option(
    "--miners", default=3, show_default=True, type=click.IntRange(0, MINERS_MAX), help="How many."
)
@click.option(
    "--validators",
    default=2,
    show_default=True,
    type=click.IntRange(0, VALIDATORS_MAX),
    help="How many.",
)
@click.option(
    "--gateway-workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, GATEWAY_WORKERS_MAX),
    help="Processes that share the gateway's port.",
)
@click.option("--database-url", default="", help="Your PostgreSQL instead of the embedded one.")
@click.option(
    "--nats-url", default="", help="Your NATS (with JetStream) instead of the embedded one."
)
@click.option("--detach", is_flag=True, help="Return when the market is ready; stop it by: down.")
@click.option("--progress-file", type=click.Path(), hidden=True)
@home_option
def up(home: Home, *, port: int, detach: bool, progress_file: str | None, **wished: Any) -> None:
    """Start the market in --home: servers, market, ledger, gateway, miners, validators.

    Prints the gateway's URL, an API key and snippets that work as pasted. Ctrl-C ends it all.
    """
    home.make()
    pid = home.supervisor_pid()
    if pid is not None:
        _say_running(home, pid)
        return
    check_engines(wished["miners"])
    if detach:
        _detach(home, sys.argv[1:])
        return
    lock = home.lock()
    if lock is None:
        _say_running(home, home.supervisor_pid() or 0)
        return
    wish = Wish(gateway_port=port, **wished)
    log.configure(as_json=False, level="WARNING")
    quiet = progress_file is not None
    with _progress(quiet=quiet, file=progress_file) as told:
        plan = make_plan(home, wish)
        market = Market(plan, told)

        def on_ready() -> None:
            told("ready", 1, 1)
            if not quiet:
                print_welcome(home, plan.url("gateway"))

        asyncio.run(market.run(on_ready))
    if not quiet:
        console().print(
            f"Stopped. Nothing is lost: penstock up{home.flag} goes on where it was.", markup=False
        )


def print_welcome(home: Home, url: str) -> None:
    """URL, key and snippets that work as pasted."""
    api_key = home.api_key_file.read_text().strip()
    again = f"{_program()} %s{home.flag}"
    click.echo(
        f"""
Penstock is up.

  gateway   {url}/v1
  API key   {api_key}
  models    tiny-chat (chat), minilm (embeddings), minilm-rerank (rerank), moderation-mini (moderation),
            tiny-image (images), flite (speech), pocketsphinx (transcription)
  home      {home.path}

Ask it something:

curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {api_key}" -H "Content-Type: application/json" \\
  -d '{{"model": "tiny-chat", "messages": [{{"role": "user", "content": "What is the capital of Kenya?"}}]}}'

From Python, with the stock client (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{api_key}")
answer = client.chat.completions.create(model="tiny-chat", messages=[{{"role": "user", "content": "Hello!"}}])
print(answer.choices[0].message.content)

Next:

{again % "chat"}
{again % "status"}
{again % "scores"}
{again % "down"}
"""
    )


def _program() -> str:
    """This program as a shell finds it: by its name, or else by the path it was called by."""
    called = Path(sys.argv[0])
    if called.name != "penstock" or which("penstock"):
        return "penstock"
    return shlex.quote(str(called))


def _say_running(home: Home, pid: int) -> None:
    state = home.read_state()
    console().print(
        f"A market already runs in {home.path} (process {pid}); nothing was changed.\n"
        f"  gateway {state.get('gateway_url', '(coming up)')}\n"
        f"  Next: penstock status{home.flag}, or penstock down{home.flag}",
        markup=False,
    )


def _detach(home: Home, arguments: list[str]) -> None:
    """Start this same command in a session of its own and wait until it is ready. Raises Stop."""
    # A file of our own: another `up` in this home may be on its way too.
    progress_file = home.path / f"progress-{os.getpid()}.json"
    try:
        _start_detached(home, arguments, progress_file)
    finally:
        progress_file.unlink(missing_ok=True)


def _start_detached(home: Home, arguments: list[str], progress_file: Path) -> None:
    kept = [argument for argument in arguments if argument != "--detach"]
    log_file = home.log_file("supervisor")
    said_before = log_file.stat().st_size if log_file.exists() else 0
    with log_file.open("ab") as output:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "penstock.cli.main",
                *kept,
                "--progress-file",
                str(progress_file),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with _progress(quiet=False, file=None) as told:
        for _ in range(int(DETACH_DEADLINE_S / CHECK_EVERY_S)):
            step = read_json(progress_file)
            if step:
                told(str(step["step"]), int(step["done"]), int(step["of"]))
            if step.get("step") == "ready" or child.poll() is not None:
                break
            pause(CHECK_EVERY_S)
    running = home.supervisor_pid()
    if child.poll() is not None and running is not None:
        # Another `up` took the lock first.
        _say_running(home, running)
        return
    if child.poll() is not None:
        said = log_file.read_bytes()[said_before:].decode(errors="replace").strip().splitlines()
        words = [line.removeprefix("Error: ") for line in said[-6:]]
        raise Stop("the market did not come up", why="\n".join(words))
    if read_json(progress_file).get("step") != "ready":
        raise Stop("the market is not ready yet", then=f"penstock status{home.flag}")
    print_welcome(home, str(home.read_state()["gateway_url"]))


def _lines() -> Told:
    """Where there is no terminal: a line on standard error for each step."""
    told = ""

    def show(step: str, done: int, of: int) -> None:
        nonlocal told
        if step not in (told, "ready"):
            click.echo(f"penstock: {step} ({done} of {of})", err=True)
        told = step

    return show


@contextmanager
def _progress(*, quiet: bool, file: str | None) -> Iterator[Told]:
    """A bar on the terminal, or a file that the one who detached us reads."""
    if file is not None:
        path = Path(file)

        def write(step: str, done: int, of: int) -> None:
            write_json(path, {"step": step, "done": done, "of": of}, mode=0o600)

        try:
            yield write
        finally:
            path.unlink(missing_ok=True)
        return
    if not quiet and not error_console().is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("penstock"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=1)

        def show(step: str, done: int, of: int) -> None:
            bar.update(task, description=step, completed=done, total=of)
            if step == "ready":
                bar.stop()

        yield show
