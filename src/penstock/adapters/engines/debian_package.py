"""Debian packages without Debian and without root: fetched, held against a digest, files taken out.

A `.deb` is an `ar` archive with a `data.tar.xz` in it. Only regular files and links whose base name is
wanted are taken, by that base name, into one flat folder: no path of the archive is ever followed.
"""

import hashlib
import io
import lzma
import os
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.errors import PackageBroken

Fetch = Callable[[str, int], bytes]
"""(URL, most bytes) -> what is there. Raises OSError."""

SOURCES = (
    "https://deb.debian.org/debian/pool/main",
    "https://snapshot.debian.org/archive/debian/20230601T000000Z/pool/main",
)
FETCH_DEADLINE_S = 60
AR_MAGIC = b"!<arch>\n"
AR_HEAD_BYTES = 60
UNPACKED_BYTES_MAX = 256 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A package file: its path below the pool, its digest and its size."""

    path: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def fetched(
    package: Package,
    fetch: Fetch,
    *,
    cache: Path | None = None,
    sources: Iterable[str] = SOURCES,
) -> bytes:
    """The package, from the cache or from the first source that has it with the right digest.

    Raises PackageBroken; OSError when the cache cannot be written.
    """
    kept = None if cache is None else cache / package.name
    if kept is not None and kept.is_file() and is_it(package, data := kept.read_bytes()):
        return data
    why: list[str] = []
    for source in sources:
        url = f"{source}/{package.path}"
        try:
            data = fetch(url, package.size_bytes)
        except OSError as error:
            why.append(f"{url}: {error}")
            continue
        if is_it(package, data):
            if kept is not None:
                keep(kept, data)
            return data
        why.append(f"{url}: its digest is another")
    raise PackageBroken(package.name, "; ".join(why))


def is_it(package: Package, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == package.sha256


def keep(path: Path, data: bytes) -> None:
    """Whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.half")
    half.write_bytes(data)
    half.replace(path)


def packages_folder(env: Mapping[str, str]) -> Path | None:
    """Where this user's programs keep what they fetched; None where nobody says."""
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "penstock" / "packages"
    return Path(env["HOME"]) / ".cache" / "penstock" / "packages" if env.get("HOME") else None


def fetch_url(url: str, bytes_max: int) -> bytes:
    """What is at an HTTPS address. Implements `Fetch`."""
    if not url.startswith("https://"):
        raise ValueError(f"packages are fetched by https, not from {url}")
    with urllib.request.urlopen(url, timeout=FETCH_DEADLINE_S) as reply:  # noqa: S310 - checked above
        data: bytes = reply.read(bytes_max + 1)
    return data


def unpack(data: bytes, folder: Path, *, name: str, wanted: Callable[[str], bool]) -> None:
    """Write the wanted files into the folder; links become links beside their target.

    Raises PackageBroken, OSError.
    """
    unpacked = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(_tar(data))) as archive:
            for member in archive:
                base = member.name.rpartition("/")[2]
                if not wanted(base):
                    continue
                if member.issym():
                    target = member.linkname.rpartition("/")[2]
                    if wanted(target):
                        _link(folder / base, target)
                elif member.isreg():
                    unpacked += member.size
                    if unpacked > UNPACKED_BYTES_MAX:
                        raise PackageBroken(name, "it unpacks to too much")
                    content = archive.extractfile(member)
                    assert content is not None
                    _write(folder / base, content.read(), is_program=bool(member.mode & 0o100))
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError) as error:
        raise PackageBroken(name, str(error)) from error


def _tar(data: bytes) -> bytes:
    """The data archive of a package, unpacked. Raises ValueError, LZMAError."""
    if not data.startswith(AR_MAGIC):
        raise ValueError("it is no .deb")
    at = len(AR_MAGIC)
    while at + AR_HEAD_BYTES <= len(data):
        head = data[at : at + AR_HEAD_BYTES]
        size = int(head[48:58])
        start = at + AR_HEAD_BYTES
        if head[:16].strip().rstrip(b"/") == b"data.tar.xz":
            unpacker = lzma.LZMADecompressor()
            tar = unpacker.decompress(data[start : start + size], UNPACKED_BYTES_MAX)
            if not unpacker.eof:
                raise ValueError("it is cut short, or unpacks to too much")
            return tar
        at = start + size + size % 2
    raise ValueError("it has no data.tar.xz")


def _write(path: Path, data: bytes, *, is_program: bool) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o755 if is_program else 0o644)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
