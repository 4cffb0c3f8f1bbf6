"""What the law refuses, one class a reason. Each error carries fields; its text is made from them.

The fields are the contract: callers read `error.reason`, never the words of `str(error)`.
"""

from dataclasses import dataclass, fields


# eq=False: two errors are the same only if they are one object, so every error stays hashable.
@dataclass(eq=False, kw_only=True)
class SpecError(Exception):
    """The root of every refusal of the law."""

    def __str__(self) -> str:
        said = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)]
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(eq=False, kw_only=True)
class NotCanonical(SpecError):
    """Outside the canonical form. `path` names the place (`units.prompt`, `seats[3].miner`)."""

    reason: str
    path: str = ""

    def inside(self, place: str) -> "NotCanonical":
        """The same refusal, seen from one level further out."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return NotCanonical(reason=self.reason, path=f"{place}{joint}{self.path}")


@dataclass(eq=False, kw_only=True)
class BadIdentity(SpecError):
    """Not `<scheme>:<key in lower-case hex>`."""

    identity: str


@dataclass(eq=False, kw_only=True)
class BadSignature(SpecError):
    """A signature that does not hold, or holds for another kind, key or role."""

    kind: str
    signer: str
    reason: str


@dataclass(eq=False, kw_only=True)
class BadMessage(SpecError):
    """A well-formed, signed message that breaks a rule of its kind."""

    kind: str
    reason: str


@dataclass(eq=False, kw_only=True)
class Expired(SpecError):
    """Too late: `at_ms` was the last moment, `now_ms` is now."""

    what: str
    at_ms: int
    now_ms: int


@dataclass(eq=False, kw_only=True)
class BadProof(SpecError):
    """A Merkle proof that does not lead to the root it should. `what`: inclusion, consistency."""

    what: str
    reason: str


@dataclass(eq=False, kw_only=True)
class BadNote(SpecError):
    """A signed note or checkpoint that is malformed, or not signed by the key asked for."""

    reason: str


@dataclass(eq=False, kw_only=True)
class BadShare(SpecError):
    """Weights that cannot be shared out: a negative one, or shares above one whole."""

    who: str
    reason: str


@dataclass(eq=False, kw_only=True)
class BadReport(SpecError):
    """A validator's scores that are out of range or add up to more than one whole."""

    validator: str
    reason: str


@dataclass(eq=False, kw_only=True)
class BadPosting(SpecError):
    """An operation on the books that says nothing sensible: a zero leg, an account named twice."""

    id: str
    reason: str


@dataclass(eq=False, kw_only=True)
class Unbalanced(SpecError):
    """Legs that do not add up to zero: they are `off_nano` off."""

    id: str
    off_nano: int


@dataclass(eq=False, kw_only=True)
class Overdraft(SpecError):
    """An account would fall `short_nano` below zero, counting what is held on it."""

    account: str
    short_nano: int


@dataclass(eq=False, kw_only=True)
class UnknownHold(SpecError):
    """No hold of this id was ever made."""

    hold: str


@dataclass(eq=False, kw_only=True)
class HoldExceeded(SpecError):
    """A capture of `wanted_nano` from a hold that has `left_nano` left (0 once released)."""

    hold: str
    left_nano: int
    wanted_nano: int


@dataclass(eq=False, kw_only=True)
class IdReused(SpecError):
    """An id that was used before, with other content."""

    id: str


@dataclass(eq=False, kw_only=True)
class IllegalStep(SpecError):
    """An event that cannot happen to an instance in this state."""

    state: str
    event: str
