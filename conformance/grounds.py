"""Where suites run: a virtual environment or an npm folder each, everything pinned, made once.

They live under `conformance/.venvs` and are made anew when their lock changes. What cannot be had
(no such package, no network, no program) is Unavailable with the words of the tool that said so.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LOCKS = FOLDER / "locks"
GROUNDS = FOLDER / ".venvs"
INSTALL_DEADLINE_S = 600
STAMP = ".made-from"
SAID_CHARS_MAX = 400
# What a client of this machine's would pick up and what would change a result.
KEPT_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Unavailable(Exception):
    """A suite that cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source distribution whose tests are run: `name==version` and its SHA-256."""

    pin: str
    sha256: str

    @property
    def folder(self) -> str:
        return self.pin.replace("==", "-")


def environment(**more: str) -> dict[str, str]:
    """What a suite may see of ours, and what it is told."""
    return {name: os.environ[name] for name in KEPT_ENV if name in os.environ} | more


def virtual_environment(name: str) -> Path:
    """The Python of `locks/NAME.lock`, every file checked against its hash. Raises Unavailable."""
    lock, home = LOCKS / f"{name}.lock", GROUNDS / name
    python = home / "bin" / "python"
    if _is_made(home, lock.read_bytes()):
        return python
    uv = Path(sys.executable).with_name("uv")
    _ran([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
    _ran(
        [
            *(str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
            *("--python", str(python), "-r", str(lock)),
        ]
    )
    _made(home, lock.read_bytes())
    return python


def source_tree(python: Path, sdist: Sdist) -> Path:
    """An unpacked source distribution, fetched with pip and checked. Raises Unavailable."""
    home = python.parents[1] / "sdist"
    if _is_made(home, sdist.sha256.encode()):
        return home / sdist.folder
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    wanted = home / "wanted.txt"
    wanted.write_text(f"{sdist.pin} --hash=sha256:{sdist.sha256}\n")
    # Without isolation: pip asks the build backend for the name, and ours is pinned by hash too.
    _ran(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "download", "--quiet"),
            *("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--require-hashes"),
            *("--dest", str(home), "-r", str(wanted)),
        ]
    )
    with tarfile.open(home / f"{sdist.folder}.tar.gz") as archive:
        archive.extractall(home, filter="data")
    _made(home, sdist.sha256.encode())
    return home / sdist.folder


def npm_folder() -> Path:
    """A copy of `conformance/js` with what its lock names. Raises Unavailable."""
    source, home = FOLDER / "js", GROUNDS / "js"
    lock = (source / "package-lock.json").read_bytes()
    if shutil.which("npm") is None:
        raise Unavailable("npm is not installed: it comes with Node.js 20 or newer.")
    if not _is_made(home, lock):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(source, home)
        _ran(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder=home)
        _made(home, lock)
    for file in source.iterdir():
        shutil.copy(file, home)
    return home


def npm_version(home: Path, package: str) -> str:
    """The version of an installed npm package."""
    text = (home / "node_modules" / package / "package.json").read_text()
    return _first(r'"version":\s*"([^"]+)"', text)


def locked_version(name: str, package: str) -> str:
    """The version of a package in `locks/NAME.lock`."""
    return _first(rf"(?m)^{re.escape(package)}==(\S+)", (LOCKS / f"{name}.lock").read_text())


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


def _is_made(home: Path, source: bytes) -> bool:
    stamp = home / STAMP
    return stamp.exists() and stamp.read_text() == hashlib.sha256(source).hexdigest()


def _made(home: Path, source: bytes) -> None:
    (home / STAMP).write_text(hashlib.sha256(source).hexdigest())


def _ran(argv: list[str], *, folder: Path | None = None) -> None:
    """Run a tool. Raises Unavailable with its last words."""
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(argv[0]).name}: {error}") from error
    if done.returncode:
        said = re.sub(r"\s+", " ", done.stderr or done.stdout).strip()
        raise Unavailable(f"{' '.join([Path(argv[0]).name, *argv[1:4]])}: {said[-SAID_CHARS_MAX:]}")
