"""What commands print: one JSON object with --json, else lines and tables that respect NO_COLOR."""

import json
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.spec.units import NANO_PER_USD

PIPE_COLUMNS = 160
F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Adds --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def console() -> Console:
    """Plain when not a terminal or when NO_COLOR is set (rich reads it itself)."""
    return Console(highlight=False, soft_wrap=True, width=_width(sys.stdout))


def error_console() -> Console:
    return Console(highlight=False, soft_wrap=True, stderr=True, width=_width(sys.stderr))


def _width(stream: TextIO) -> int | None:
    """A pipe has no width: tables are printed wide enough not to be folded there."""
    return None if stream.isatty() else PIPE_COLUMNS


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table, or the sentence `empty` when there are no rows. Numbers stand to the right."""
    if not rows:
        console().print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    console().print(table)


def plain(text: str) -> str:
    """Text of a stranger without what steers a terminal: only line ends and tabs are kept."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def usd(nano: int) -> str:
    """nano-USD as USD, exactly."""
    text = f"{Decimal(nano) / NANO_PER_USD:.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.ljust(2, '0')}"


def short(identity: str) -> str:
    """An identity short enough for a table."""
    scheme, _, key = identity.partition(":")
    return f"{scheme}:{key[:12]}" if len(key) > 16 else identity
