"""The cache on disk.

    sha256/XX/HEX      files by digest, read-only
    models/HEX/...     a model as engines want it: its files by name, as links to the above
    index/HEX.json     what a model consists of and whether it is whole; its mtime is the last use
    pins/HEX/HOLDER    which instance uses it; it outlives the agent, as its engine does
    partial/HEX        what is not whole
    locks/NAME         see Locks

A model's record is written before its files come, so that what is on disk is always accounted for.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from penstock.adapters.files import sync_folder, write_durably
from penstock.adapters.weights.errors import NotFetched
from penstock.adapters.weights.eviction import Kept
from penstock.adapters.weights.locks import Locks
from penstock.adapters.weights.model import Model
from penstock.kit.ports import Clock
from penstock.spec.weights import WeightFile, is_sha256

HOLDER_CHARS_MAX = 80
NANO_PER_MS = 1_000_000


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`index/HEX.json`. Only what anybody may fetch is shared with others (`is_public`)."""

    digest: str
    files: tuple[WeightFile, ...]
    is_folder: bool
    is_whole: bool
    is_public: bool

    @property
    def model(self) -> Model:
        return Model(self.digest, self.files, self.is_folder)


class WeightStore:
    """The cache below `root`. Several processes may use one cache at the same time."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self.locks = Locks(root / "locks")
        self._clock = clock
        for name in ("sha256", "models", "index", "pins", "partial"):
            (root / name).mkdir(exist_ok=True)

    # Where things are.

    def blob(self, sha256: str) -> Path:
        """Where the file of this digest is, or will be."""
        return self.root / "sha256" / sha256[:2] / sha256

    def partial(self, sha256: str) -> Path:
        return self.root / "partial" / sha256

    def has_blob(self, file: WeightFile) -> bool:
        """Is it here, with all its bytes?"""
        return size_of(self.blob(file.sha256)) == file.size_bytes

    def path(self, digest: str) -> Path:
        """The model for an engine: a file, or the folder of a model of several. Counts as a use.

        Raises NotFetched.
        """
        record = self.record(digest)
        if record is None or not record.is_whole:
            raise NotFetched(digest)
        folder = self.root / "models" / digest
        if any(size_of(folder / file.path) != file.size_bytes for file in record.files):
            raise NotFetched(digest)
        self._touch(digest)
        return folder if record.is_folder else folder / record.files[0].path

    # Records.

    def record(self, digest: str) -> Record | None:
        """What is known of a model; None also where the disk holds nonsense."""
        try:
            data = self._index(digest).read_bytes()
            return msgspec.json.decode(data, type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def records(self) -> Iterator[Record]:
        """All models, whole or not."""
        for path in sorted((self.root / "index").glob("*.json")):
            record = self.record(path.stem)
            if record is not None:
                yield record

    def write_record(self, model: Model, *, is_whole: bool, is_public: bool) -> None:
        record = Record(model.digest, model.files, model.is_folder, is_whole, is_public)
        path = self._index(model.digest)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        write_durably(temporary, msgspec.json.encode(record))
        temporary.replace(path)
        self._touch(model.digest)
        sync_folder(path.parent)

    def publish(self, model: Model, *, is_public: bool) -> Path:
        """All files are here: give the model its folder, and return what an engine opens."""
        folder = self.root / "models" / model.digest
        made = folder.with_name(f".{model.digest}.{os.getpid()}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for file in model.files:
            place = made / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            link(self.blob(file.sha256), place)
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
        self.write_record(model, is_whole=True, is_public=is_public)
        return self.path(model.digest)

    # Use.

    def pin(self, digest: str, holder: str) -> None:
        """Keep the model until `holder` (an instance's name) lets go of it."""
        assert is_sha256(digest)
        assert len(holder) <= HOLDER_CHARS_MAX
        folder = self.root / "pins" / digest
        folder.mkdir(exist_ok=True)
        (folder / quote(holder, safe="")).touch()

    def unpin(self, digest: str, holder: str) -> None:
        """It is used no more by this holder. Twice is harmless, and so is nobody ("")."""
        if not holder:
            return
        folder = self.root / "pins" / digest
        (folder / quote(holder, safe="")).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others hold it too, or it was never held
            folder.rmdir()

    def holders(self, digest: str) -> frozenset[str]:
        """Who uses it."""
        with contextlib.suppress(FileNotFoundError):
            folder = self.root / "pins" / digest
            return frozenset(unquote(path.name) for path in folder.iterdir())
        return frozenset()

    def unpin_others(self, alive: Collection[str], *, prefix: str) -> None:
        """After a crash: holders that begin with `prefix` and live no more let go of everything."""
        for folder in (self.root / "pins").iterdir():
            for holder in self.holders(folder.name):
                if holder.startswith(prefix) and holder not in alive:
                    self.unpin(folder.name, holder)

    # Leaving.

    def drop(self, digest: str, *, besides: Collection[str]) -> None:
        """Forget a model, or a file that belongs to none; files in `besides` stay."""
        record = self.record(digest)
        self._index(digest).unlink(missing_ok=True)
        shutil.rmtree(self.root / "models" / digest, ignore_errors=True)
        shutil.rmtree(self.root / "pins" / digest, ignore_errors=True)
        for blob in record.model.blobs if record is not None else (digest,):
            if blob not in besides:
                self.blob(blob).unlink(missing_ok=True)
                self.partial(blob).unlink(missing_ok=True)

    def kept(self) -> list[Kept]:
        """All that lies here, for the rule of eviction. A model that somebody fetches or looks up now is
        pinned and counts in full; one whose fetch has died counts what it has; files of no model
        stand alone.
        """
        found: list[Kept] = []
        known: set[str] = set()
        for record in self.records():
            is_busy = self.locks.is_held(model_lock(record.digest))
            blobs = record.model.blobs
            if not record.is_whole and not is_busy:
                blobs = {blob: self.held_bytes(blob) for blob in blobs}
            known |= blobs.keys()
            is_pinned = is_busy or bool(self.holders(record.digest))
            found.append(Kept(record.digest, blobs, self._used_ms(record.digest), is_pinned))
        for path in [*self.root.glob("sha256/*/*"), *self.root.glob("partial/*")]:
            if path.name not in known and is_sha256(path.name):
                known.add(path.name)
                is_busy = self.locks.is_held(blob_lock(path.name))
                used_ms = path.stat().st_mtime_ns // NANO_PER_MS
                found.append(
                    Kept(path.name, {path.name: self.held_bytes(path.name)}, used_ms, is_busy)
                )
        return found

    def here_bytes(self, model: Model) -> int:
        """What of the model is here, whole files and parts."""
        return sum(min(self.held_bytes(blob), size) for blob, size in model.blobs.items())

    def held_bytes(self, sha256: str) -> int:
        """What of one file is here, whole or a part."""
        return max(size_of(self.blob(sha256)), 0) + max(size_of(self.partial(sha256)), 0)

    def _index(self, digest: str) -> Path:
        return self.root / "index" / f"{digest}.json"

    def _used_ms(self, digest: str) -> int:
        try:
            return self._index(digest).stat().st_mtime_ns // NANO_PER_MS
        except FileNotFoundError:
            return 0

    def _touch(self, digest: str) -> None:
        now_ns = self._clock.now_ms() * NANO_PER_MS
        os.utime(self._index(digest), ns=(now_ns, now_ns))


def model_lock(digest: str) -> str:
    """Who holds it fetches the model."""
    return f"model-{digest}"


def blob_lock(sha256: str) -> str:
    """Who holds it writes the file."""
    return f"blob-{sha256}"


def size_of(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


def link(blob: Path, place: Path) -> None:
    """A hard link: a sandbox that shows the model's folder alone still shows the bytes."""
    try:
        os.link(blob, place)
    except OSError:  # this file system has no hard links
        place.symlink_to(os.path.relpath(blob, place.parent))
