"""A model as the cache knows it: a digest and the files that it stands for."""

from dataclasses import dataclass

from penstock.spec.weights import WeightFile, listing_digest


@dataclass(frozen=True, slots=True)
class Model:
    """`digest` is the file's own, or the listing's where it is a folder."""

    digest: str
    files: tuple[WeightFile, ...]
    is_folder: bool

    @property
    def blobs(self) -> dict[str, int]:
        """Digest -> bytes; the same bytes under two paths count once."""
        return {file.sha256: file.size_bytes for file in self.files}

    @property
    def size_bytes(self) -> int:
        return sum(self.blobs.values())


def model_of_file(name: str, sha256: str, size_bytes: int) -> Model:
    """A model of one file."""
    return Model(sha256, (WeightFile(name, sha256, size_bytes),), is_folder=False)


def model_of_folder(files: tuple[WeightFile, ...]) -> Model:
    """A model of several files. Raises BadMessage."""
    return Model(listing_digest(files), files, is_folder=True)
