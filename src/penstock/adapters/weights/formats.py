"""Which files of a model are kept: weights that are data only, and what stands beside them.

A pickle (`.bin`, `.pt`, ...) is a program; it is refused by name. So is `.py`: no remote code.
"""

import struct
from collections.abc import Iterable

from penstock.adapters.weights.errors import FormatRefused, PickleRefused

WEIGHTS = (".safetensors", ".gguf")
BESIDE = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".spm", ".vocab")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5")
GGUF_MAGIC = b"GGUF"
HEAD_BYTES = 16
SAFETENSORS_HEADER_BYTES_MAX = 100 << 20


def kept_paths(paths: Iterable[str], *, source: str) -> list[str]:
    """The files of a folder that belong to the model, sorted: the same for everybody, since the
    folder's digest is taken over them. Raises PickleRefused, FormatRefused.
    """
    found = sorted(paths)
    kept = [path for path in found if path.lower().endswith(WEIGHTS + BESIDE)]
    if not any(path.lower().endswith(WEIGHTS) for path in kept):
        pickles = tuple(path for path in found if is_pickle(path))
        if pickles:
            raise PickleRefused(source, pickles)
        raise FormatRefused(source, "it holds no .safetensors or .gguf file")
    return kept


def check_name(path: str, *, source: str) -> None:
    """A file by itself, or one of a listing. Raises PickleRefused, FormatRefused."""
    if is_pickle(path):
        raise PickleRefused(source, (path,))
    if not path.lower().endswith(WEIGHTS + BESIDE):
        raise FormatRefused(path, "files of this kind are no weights")


def is_pickle(path: str) -> bool:
    return path.lower().endswith(PICKLES)


def check_head(path: str, head: bytes, *, size_bytes: int) -> None:
    """The first bytes fit the name; catches error pages and renamed pickles. Raises FormatRefused."""
    suffix = suffix_of(head, size_bytes=size_bytes)
    lowered = path.lower()
    for one in WEIGHTS:
        if lowered.endswith(one) and suffix != one:
            raise FormatRefused(path, f"its first bytes are not those of a {one} file")


def suffix_of(head: bytes, *, size_bytes: int) -> str:
    """`.gguf` or `.safetensors` by the first bytes, else ""."""
    if head.startswith(GGUF_MAGIC):
        return ".gguf"
    if len(head) > struct.calcsize("<Q"):
        (header_bytes,) = struct.unpack_from("<Q", head)
        fits = header_bytes <= min(size_bytes - 8, SAFETENSORS_HEADER_BYTES_MAX)
        if fits and head[8:9] == b"{":
            return ".safetensors"
    return ""
