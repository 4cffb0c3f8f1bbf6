"""What a validator may meet and act on. Each error carries fields; its text says what to do next."""

from dataclasses import dataclass


@dataclass(eq=False)
class ConfigInvalid(Exception):
    """The configuration file cannot be used."""

    place: str
    reason: str

    def __str__(self) -> str:
        return (
            f"The validator's configuration {self.place} cannot be used: {self.reason}. "
            "Correct the file, then start the validator again."
        )


@dataclass(eq=False)
class StartRefused(Exception):
    """The market is not one that this validator can judge."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"The validator cannot start: {self.reason}. {self.remedy}"


@dataclass(eq=False)
class PeerDown(Exception):
    """The market or the ledger did not give a usable answer. Try again."""

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"The {self.peer} cannot be reached: {self.reason}."


@dataclass(eq=False)
class PeerRefused(Exception):
    """The market or the ledger answered with an error of the OpenAI envelope."""

    peer: str
    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"The {self.peer} refused ({self.status} {self.code}): {self.message}"


@dataclass(eq=False)
class NotebookTorn(Exception):
    """The file in which this validator remembers its reports cannot be read.

    Without it the validator might report twice on one epoch, so it does not start.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.name} in the validator's home cannot be read ({self.reason}). Restore it, or "
            "move it away once the epoch that is open now has been settled."
        )
