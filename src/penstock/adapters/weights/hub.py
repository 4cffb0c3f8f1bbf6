"""A model hub that speaks Hugging Face's API: the file tree of a revision, and `resolve` for bytes.

Shapes as of November 2026: `GET /api/models/{repo}/tree/{rev}?recursive=true` lists
`{type, path, size, oid, lfs: {oid, size}}` in pages (`Link: <...>; rel="next"`); `lfs.oid` is the
SHA-256 of a large file, `oid` the git SHA-1 of a small one. `GET /{repo}/resolve/{rev}/{path}`
redirects large files to a store of their own. Small files are read before anything large, so that a
folder's digest is known, and refused, before gigabytes come.
"""

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from penstock.adapters.weights.courier import Address, Courier, Headers, joined, same_host
from penstock.adapters.weights.errors import DigestWrong, SourceMissing, SourceRefused
from penstock.adapters.weights.formats import check_name, kept_paths
from penstock.adapters.weights.model import Model, model_of_file, model_of_folder
from penstock.adapters.weights.reference import HubReference
from penstock.adapters.weights.sources import check_size
from penstock.spec.errors import BadMessage
from penstock.spec.weights import FILES_MAX, WeightFile, is_sha256, is_weight_path

PUBLIC_HUB = "https://huggingface.co"
PAGE_BYTES_MAX = 8 << 20
PAGES_MAX = 64
SMALL_BYTES_MAX = 16 << 20
SMALL_TOTAL_BYTES_MAX = 64 << 20
NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')


class Large(msgspec.Struct, frozen=True):
    """The `lfs` part of an entry."""

    oid: str
    size: int


class Entry(msgspec.Struct, frozen=True):
    """One entry of a tree."""

    type: str
    path: str
    oid: str = ""
    size: int = 0
    lfs: Large | None = None


@dataclass(slots=True)
class HubSource:
    """One repository at one revision. `token` goes to the hub itself and nowhere else."""

    hub: str
    reference: HubReference
    courier: Courier
    token: str = ""
    _read: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        wanted = self.reference
        return f"hf:{wanted.repo}{'/' + wanted.path if wanted.path else ''}@{wanted.revision}"

    @property
    def is_public(self) -> bool:
        return not self.token and not self.courier.is_trusted(self.hub)

    async def model(self, want_sha256: str) -> Model:
        entries = await self._tree()
        if self.reference.path:
            found = await self._one(entries)
        else:
            found = await self._all(entries)
        if want_sha256 not in {"", found.digest}:
            raise DigestWrong("the model", self.name, want_sha256, found.digest)
        return found

    def address(self, file: WeightFile) -> Address | None:
        wanted = self.reference
        path = wanted.path or file.path
        return self._address(f"/{wanted.repo}/resolve/{quote(wanted.revision)}/{quote(path)}")

    def small(self, file: WeightFile) -> bytes | None:
        return self._read.get(file.sha256)

    async def _one(self, entries: dict[str, Entry]) -> Model:
        path = self.reference.path
        check_name(path, source=self.name)
        if path not in entries:
            raise SourceMissing(self.name)
        file = await self._file(entries[path])
        return model_of_file(path.rpartition("/")[2], file.sha256, file.size_bytes)

    async def _all(self, entries: dict[str, Entry]) -> Model:
        paths = [path for path in kept_paths(entries, source=self.name) if is_weight_path(path)]
        if len(paths) > FILES_MAX:
            raise SourceRefused(self.name, f"it has more than {FILES_MAX} files")
        small = sum(entries[path].size for path in paths if entries[path].lfs is None)
        if small > SMALL_TOTAL_BYTES_MAX:
            raise SourceRefused(self.name, "its small files are too large together")
        files = [await self._file(entries[path]) for path in paths]
        try:
            return model_of_folder(tuple(files))
        except BadMessage as error:
            raise SourceRefused(self.name, f"its files are refused: {error.reason}") from error

    async def _file(self, entry: Entry) -> WeightFile:
        """An entry with its SHA-256; a small file is read for that."""
        if entry.lfs is not None:
            if not is_sha256(entry.lfs.oid):
                raise SourceRefused(self.name, f"{entry.path} has no SHA-256")
            return WeightFile(entry.path, entry.lfs.oid, check_size(entry.lfs.size, self.name))
        if not 0 <= entry.size <= SMALL_BYTES_MAX:
            raise SourceRefused(self.name, f"{entry.path} is large and has no SHA-256")
        wanted = self.reference
        address = self._address(
            f"/{wanted.repo}/resolve/{quote(wanted.revision)}/{quote(entry.path)}"
        )
        data, _ = await self.courier.read(address, bytes_max=entry.size)
        if git_blob_id(data) != entry.oid:
            raise DigestWrong(entry.path, self.name, entry.oid, git_blob_id(data))
        sha256 = hashlib.sha256(data).hexdigest()
        self._read[sha256] = data
        return WeightFile(entry.path, sha256, len(data))

    async def _tree(self) -> dict[str, Entry]:
        """All files of the revision by path."""
        wanted = self.reference
        base = self._address(
            f"/api/models/{wanted.repo}/tree/{quote(wanted.revision)}?recursive=true"
        )
        found: dict[str, Entry] = {}
        url = base.url
        for _ in range(PAGES_MAX):
            data, link = await self.courier.read(
                Address(url, base.secret), bytes_max=PAGE_BYTES_MAX
            )
            try:
                page = msgspec.json.decode(data, type=list[Entry])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise SourceRefused(self.name, "its file tree is not what a hub sends") from error
            found.update((entry.path, entry) for entry in page if entry.type == "file")
            following = NEXT.search(link)
            if following is None:
                return found
            target = joined(url, following[1])
            if target is None or not same_host(target, base.url):
                raise SourceRefused(self.name, "its next page is elsewhere")
            url = target
        raise SourceRefused(self.name, f"its file tree has more than {PAGES_MAX} pages")

    def _address(self, target: str) -> Address:
        secret: Headers = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return Address(f"{self.hub.rstrip('/')}{target}", secret)


def git_blob_id(data: bytes) -> str:
    """What git names a file by; SHA-1 here is an address, the proof is the SHA-256 of the whole."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
