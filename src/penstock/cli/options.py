"""Options that many commands share."""

import functools
from collections.abc import Callable
from typing import Any

import click

from penstock.cli.home import DEFAULT_HOME, Home


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --home and hands the command a Home."""

    @click.option(
        "--home",
        "folder",
        default=DEFAULT_HOME,
        show_default=True,
        envvar="PENSTOCK_HOME",
        help="The market's folder on this machine.",
    )
    @functools.wraps(command)
    def with_home(folder: str, **arguments: Any) -> Any:
        return command(home=Home.at(folder), **arguments)

    return with_home
