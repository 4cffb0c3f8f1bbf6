"""What the ledger refuses, one class a reason. Callers read the fields and the class."""

from dataclasses import dataclass


class LedgerError(Exception):
    """The root of the ledger's own refusals."""


@dataclass(eq=False)
class Rejected(LedgerError):
    """A message that is forged, malformed or out of place: it changes nothing and is counted.

    `reason` is one of a small set of words, fit for a metric's label; `detail` is for people.
    """

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(eq=False)
class StaleView(LedgerError):
    """Another writer came first: look again and decide again."""

    seen_version: int
    version: int


@dataclass(eq=False)
class AccountConflict(LedgerError):
    """An opening id or an API key that is already used for something else."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message
