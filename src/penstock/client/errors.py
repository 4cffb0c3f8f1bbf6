"""What can go wrong for a caller of the market or a reader of its published files."""

from dataclasses import dataclass


@dataclass(eq=False)
class ClientError(Exception):
    """The root of every refusal of this package."""


@dataclass(eq=False)
class NotPublished(ClientError):
    """The operator has no such file (yet)."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} is not published"


@dataclass(eq=False)
class Difference(ClientError):
    """What was published is not what the law makes of the evidence: the first place where."""

    where: str
    published: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.where}: published {self.published}, recomputed {self.recomputed}"


@dataclass(eq=False)
class ApiError(ClientError):
    """The gateway answered with an error envelope."""

    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


@dataclass(eq=False)
class Unreachable(ClientError):
    """Nobody answers at the address."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"{self.url} does not answer ({self.reason})"


@dataclass(eq=False)
class BadAnswer(ClientError):
    """The signatures or digests of an answer do not hold: do not pay for it, keep it as evidence."""

    reason: str

    def __str__(self) -> str:
        return f"the answer is not what was signed: {self.reason}"


@dataclass(eq=False)
class ClientClosed(ClientError):
    """The client was closed; make another one."""

    url: str

    def __str__(self) -> str:
        return f"this client of {self.url} is closed: make another one"


@dataclass(eq=False)
class InsideLoop(ClientError):
    """The client without await was used where a loop runs."""

    url: str

    def __str__(self) -> str:
        return f"a loop runs here: use AsyncClient({self.url!r}, ...) and await its calls"
