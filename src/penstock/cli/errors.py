"""What a command tells its user when it cannot go on: what happened, why, and the next command."""

import click

from penstock.cli.output import plain


class Stop(click.ClickException):
    """Ends the command with exit code 1 (or `exit_code`) and one clear message."""

    def __init__(self, happened: str, *, why: str = "", then: str = "", exit_code: int = 1) -> None:
        parts = [happened + (f": {why}" if why else "")]
        if then:
            parts.append(f"  Next: {then}")
        super().__init__(plain("\n".join(parts)))
        self.happened = happened
        self.why = why
        self.then = then
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class
