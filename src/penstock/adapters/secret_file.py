"""A secret in a file that only its owner can read, made once even when two processes race."""

import os
import stat
import tempfile
from pathlib import Path

from penstock.adapters.errors import FileExposed
from penstock.adapters.files import sync_folder, write_durably

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret(path: Path) -> bytes:
    """The bytes of `path`. Raises FileExposed when others could read it, FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY)
    with os.fdopen(handle, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & OTHERS:
            raise FileExposed(path=path, mode=mode)
        return file.read()


def load_or_create_secret(path: Path, fresh: bytes) -> bytes:
    """The bytes of `path`, which becomes `fresh` if it is not there. Whoever is first wins.

    The file appears complete or not at all: it is written beside and linked into place, and a link
    fails when the name is taken, so two at once end up with the same secret. The name beside is
    nobody else's, not even a process's of the same number in another container.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write_durably(temporary, fresh, mode=0o600)
            os.link(temporary, path)
        except FileExistsError:
            pass  # Somebody else was first: theirs counts.
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return read_secret(path)
