"""penstock logs: what the stations wrote."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import json_option, plain, print_json
from penstock.cli.world import pause

TAIL_BYTES_MAX = 1 << 20
FOLLOW_EVERY_S = 0.2


@click.command()
@click.argument("station", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing as lines come; Ctrl-C ends.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many lines of each log.")
@home_option
@json_option
def logs(home: Home, *, station: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """Print the logs of all stations, or of one STATION (gateway, ledger, miner-1, postgres ...)."""
    files = sorted(home.logs.glob("*.log"))
    if station is not None:
        names = [file.stem for file in files]
        files = [file for file in files if file.stem == station]
        if not files:
            raise Stop(
                f"no log of {station!r} in {home.logs}",
                then=f"one of: {', '.join(names)}" if names else f"penstock up{home.flag}",
            )
    if not files:
        raise Stop(f"no logs in {home.logs}", then=f"penstock up{home.flag}")
    # Where following begins: measured before the first line is shown, so that none is left out.
    ends = {file: file.stat().st_size for file in files}
    if as_json:
        print_json({file.stem: tail(file, lines) for file in files})
        return
    for file in files:
        for line in tail(file, lines, end=ends[file]):
            click.echo(f"{file.stem:12} {line}" if len(files) > 1 else line)
    if follow:
        for name, line in grow(ends):
            click.echo(f"{name:12} {line}" if len(files) > 1 else line)


def tail(file: Path, lines: int, *, end: int | None = None) -> list[str]:
    """The last lines of a file (up to byte `end`), without reading more than 1 MiB of it."""
    with file.open("rb") as handle:
        size = handle.seek(0, 2) if end is None else end
        start = handle.seek(max(0, size - TAIL_BYTES_MAX))
        text = handle.read(size - start).decode(errors="replace")
    return _lines(text)[-lines:] if lines > 0 else []


def grow(begin: Mapping[Path, int]) -> Iterator[tuple[str, str]]:
    """Lines as they are written, for ever, each file from its byte in `begin`; one that was rotated
    is read from its beginning.
    """
    places = dict(begin)
    while True:
        for file in begin:
            size = file.stat().st_size if file.exists() else 0
            if size < places[file]:
                places[file] = 0
            if size > places[file]:
                with file.open("rb") as handle:
                    handle.seek(places[file])
                    data = handle.read(size - places[file])
                whole = data.rfind(b"\n") + 1
                places[file] += whole
                for line in _lines(data[:whole].decode(errors="replace")):
                    yield file.stem, line
        pause(FOLLOW_EVERY_S)


def _lines(text: str) -> list[str]:
    """Lines end with a line feed and nothing else, and hold nothing that steers a terminal."""
    return (
        [plain(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]
        if text
        else []
    )
