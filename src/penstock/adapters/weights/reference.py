"""Where a manifest says its weights are.

| written | means |
|---|---|
| `hf:owner/repo@rev` | a folder: the safe files of a hub's repository at a branch, tag or commit |
| `hf:owner/repo@rev/a/b.gguf` or `hf:owner/repo/a/b.gguf@rev` | one file of it |
| `https://mirror/a/b.gguf` | one file |
| `https://mirror/base/` | a mirror that keeps files as `base/sha256/HEX` |
| `penstock:https://miner:port` | another miner, which serves `/v1/weights/sha256/HEX` |
| `file:/absolute/path` | a file or folder of this machine, used where it is |
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from penstock.adapters.weights.errors import ReferenceInvalid
from penstock.spec.weights import is_weight_path

TEXT_CHARS_MAX = 1_024
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
REPO_PARTS = 2
DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of the hub; `path` is "" for the whole of it."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True, slots=True)
class UrlReference:
    """One file at a URL."""

    url: str
    name: str


@dataclass(frozen=True, slots=True)
class StoreReference:
    """Somebody who serves files by digest below `url`: `url` + `/sha256/HEX`."""

    url: str
    is_peer: bool


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file or folder of this machine."""

    path: Path


Reference = HubReference | UrlReference | StoreReference | FileReference


def parse_reference(text: str) -> Reference:
    """Read a source. Raises ReferenceInvalid."""
    if len(text) > TEXT_CHARS_MAX or not text.isprintable():
        raise ReferenceInvalid(text, "it is too long or holds unprintable characters")
    scheme, _, rest = text.partition(":")
    match scheme:
        case "hf":
            return _hub(text, rest)
        case "https" | "http":
            return _url(text)
        case "penstock":
            check_url(text, rest)
            return StoreReference(f"{rest.rstrip('/')}/v1/weights", is_peer=True)
        case "file":
            if not rest.startswith("/"):
                raise ReferenceInvalid(text, "a file's path is absolute")
            return FileReference(Path(rest))
        case _:
            raise ReferenceInvalid(text, f"there is no source {scheme[:40]!r}")


def is_fetched(text: str) -> bool:
    """Does the source come over the network into the cache?"""
    return text.startswith(("hf:", "https:", "http:", "penstock:"))


def _hub(text: str, rest: str) -> HubReference:
    name, _, behind = rest.partition("@")
    revision, _, path_behind = behind.partition("/")
    parts = name.split("/", REPO_PARTS)
    path = parts[REPO_PARTS] if len(parts) > REPO_PARTS else ""
    if path and path_behind:
        raise ReferenceInvalid(text, "the file stands before or behind the revision, not both")
    path = path or path_behind
    repo = "/".join(parts[:REPO_PARTS])
    if len(parts) < REPO_PARTS or not is_weight_path(repo):
        raise ReferenceInvalid(text, "a repository is owner/name")
    if "@" in rest and REVISION.fullmatch(revision) is None:
        raise ReferenceInvalid(text, "a revision is a branch, tag or commit without slashes")
    if path and not is_weight_path(path):
        raise ReferenceInvalid(text, "the file's path is not a plain relative one")
    return HubReference(repo, revision or DEFAULT_REVISION, path)


def _url(text: str) -> UrlReference | StoreReference:
    check_url(text, text)
    path = urlsplit(text).path
    if path.endswith("/"):
        return StoreReference(text.rstrip("/"), is_peer=False)
    name = path.rpartition("/")[2]
    if not is_weight_path(name):
        raise ReferenceInvalid(text, "its last part is not a plain file name")
    return UrlReference(text, name)


def check_url(text: str, url: str) -> None:
    """Raises ReferenceInvalid for what is no plain URL: no user, no fragment, percent-encoded."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ReferenceInvalid(text, str(error)) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ReferenceInvalid(text, "it needs http:// or https:// and a host")
    if "@" in parts.netloc or parts.fragment or not url.isascii() or " " in url:
        raise ReferenceInvalid(
            text, "no user name, fragment or unescaped character is allowed in it"
        )
