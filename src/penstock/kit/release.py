"""Which release of Penstock runs here: its version, and the commit where the installer knows it."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

import msgspec

from penstock.kit.wire import scan

DISTRIBUTION = "penstock"


@dataclass(frozen=True, slots=True)
class Release:
    """`commit` is "" for a release from an index and for a work tree; `version` is "unknown" where the
    package was not installed but only found. `is_compiled`: the relay's inner loops run in C (ADR 15).
    """

    version: str
    commit: str
    is_compiled: bool = False


class VcsInfo(msgspec.Struct):
    commit_id: str = ""


class DirectUrl(msgspec.Struct):
    """What an installer leaves beside a package that came from a repository (PEP 610)."""

    vcs_info: VcsInfo = msgspec.field(default_factory=VcsInfo)


def release() -> Release:
    """The release as installed; read once, by whoever shows it."""
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return Release(version="unknown", commit="", is_compiled=scan.is_compiled)
    commit = commit_in(installed.read_text("direct_url.json") or "{}")
    return Release(installed.version, commit, is_compiled=scan.is_compiled)


def commit_in(direct_url: str) -> str:
    """The commit in a `direct_url.json`, "" if it names none."""
    try:
        return msgspec.json.decode(direct_url, type=DirectUrl).vcs_info.commit_id
    except msgspec.DecodeError:
        return ""
