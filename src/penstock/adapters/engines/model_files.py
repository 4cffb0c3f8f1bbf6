"""Model files: where a source says they are, and the digest that names their bytes."""

import hashlib
from pathlib import Path

from penstock.kit.engine import EngineFailed

MODELS_FOLDER = Path(__file__).parent.parent / "models"


def gguf_path(source: str) -> Path:
    """Where the file of a llamacpp source should be; whether it is there is asked at start."""
    scheme, _, rest = source.partition(":")
    if scheme == "builtin" and rest in builtin_models():
        return MODELS_FOLDER / rest / f"{rest}-q8_0.gguf"
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    example = " or ".join((*(f"builtin:{name}" for name in builtin_models()), "file:/abs/m.gguf"))
    raise unknown_source("llamacpp", source, example)


def builtin_models() -> list[str]:
    """The models that come with the package."""
    return sorted(path.name for path in MODELS_FOLDER.iterdir() if path.is_dir())


def model_name(source: str) -> str:
    """`builtin:tiny-chat` -> `tiny-chat`, `file:/models/a.gguf` -> `a`."""
    return Path(source.partition(":")[2]).name.removesuffix(".gguf")


def found(path: Path) -> Path:
    if path.is_file():
        return path
    raise EngineFailed(
        reason=f"There is no model file {path}.",
        log_tail="",
        remedy=f"Put it there, or correct the source in the manifest: ls -l {path.parent}",
    )


def unknown_source(kind: str, source: str, example: str) -> EngineFailed:
    return EngineFailed(
        reason=f"The engine {kind} cannot serve {source!r}.",
        log_tail="",
        remedy=f"Write the source like this: {example}",
    )


def digest_hex(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
