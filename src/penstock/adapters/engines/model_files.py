"""Model files: where a source says they are, and the digest that names their bytes."""

import hashlib
from pathlib import Path

from penstock.adapters.weights.errors import NotFetched, WeightsError
from penstock.adapters.weights.reference import HubReference, is_fetched, parse_reference
from penstock.adapters.weights.store import WeightStore
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
    """The language models that come with the package."""
    return sorted(path.parent.name for path in MODELS_FOLDER.glob("*/*.gguf"))


def model_name(source: str) -> str:
    """`builtin:tiny-chat` -> `tiny-chat`, `file:/models/a.gguf` -> `a`, `hf:o/r/a.gguf@rev` -> `a`."""
    scheme, _, rest = source.partition(":")
    if scheme == "hf":
        name, _, behind = rest.partition("@")
        rest = behind if "/" in behind else name
    return Path(rest).name.removesuffix(".gguf")


def check_gguf(source: str) -> None:
    """A source that can name a GGUF file. Raises EngineFailed."""
    if not is_fetched(source):
        gguf_path(source)
        return
    example = "hf:owner/repo/model.gguf@rev"
    try:
        reference = parse_reference(source)
    except WeightsError as error:
        raise unknown_source("llamacpp", source, example) from error
    if isinstance(reference, HubReference) and not reference.path.endswith(".gguf"):
        raise unknown_source("llamacpp", source, example)


class DigestUnknown(EngineFailed):
    """The source fits its engine, but its weights are not here: only the network can say their digest."""


def digest_unknown(source: str) -> DigestUnknown:
    """Of weights that are not here nobody can say the digest without the network."""
    return DigestUnknown(
        reason=f"The digest of {source} is not known here.",
        log_tail="",
        remedy="Put model_digest into the chute's file: of a single file on a hub it is the SHA-256 "
        "that the hub shows.",
    )


def located(source: str, digest: str, *, weights: WeightStore | None) -> Path:
    """Where the weights of a source are: a file, or a folder for a model of several.

    `hf:`, `https:` and `penstock:` are looked up in the cache by the manifest's digest (the agent has
    fetched them while the instance was `pulling`); `file:` is where it says. Raises EngineFailed.
    """
    try:
        if is_fetched(source):
            parse_reference(source)
            if weights is None:
                raise NotFetched(digest)
            return weights.path(digest)
    except WeightsError as error:
        raise EngineFailed(
            reason=f"{source} is not here.", log_tail="", remedy=str(error)
        ) from error
    scheme, _, rest = source.partition(":")
    if scheme == "file" and Path(rest).is_dir():
        return Path(rest)
    return found(gguf_path(source))


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
