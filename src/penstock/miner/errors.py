"""What a miner may meet and act on. Each error carries fields; its text says what to do next."""

from dataclasses import dataclass


@dataclass(eq=False)
class ConfigInvalid(Exception):
    """The configuration file cannot be used."""

    place: str
    reason: str

    def __str__(self) -> str:
        return (
            f"The miner's configuration {self.place} cannot be used: {self.reason}. "
            "Correct the file, then start the miner again."
        )


@dataclass(eq=False)
class PeerDown(Exception):
    """The market or the ledger did not give a usable answer. The caller keeps what it had and tries
    again.
    """

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
class Refused(Exception):
    """What a gateway asked for is not done, and no receipt is given for it."""

    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class OrderRefused(Refused):
    """This order will not be served (a refusal for want of room at an instance is no error: it is
    an answer with a receipt).
    """


class SessionRefused(Refused):
    """No session is opened, or no seals are taken or given."""


@dataclass(eq=False)
class RequestUnservable(Exception):
    """The request itself cannot be passed on: answered with 400 and a receipt of no units."""

    code: str
    message: str
    param: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(eq=False)
class EngineUnknown(Exception):
    """No adapter of this miner runs the manifest's engine."""

    engine: str

    def __str__(self) -> str:
        return (
            f"This miner has no engine {self.engine!r}. Install one that runs it, or remove the chute "
            "from `chutes` in the miner's configuration."
        )
