"""vLLM and SGLang by name: which folder of weights they serve, and what it is called.

| kind | source |
|---|---|
| `vllm`, `sglang` | `file:/absolute/folder` or a fetched folder (`hf:owner/repo@rev`) of Hugging Face |
"""

from collections.abc import Callable
from pathlib import Path

from penstock.adapters.engines.dialect import Dialect
from penstock.adapters.engines.model_files import digest_hex, digest_unknown, unknown_source
from penstock.adapters.engines.server_options import ServerGround
from penstock.adapters.engines.sglang import sglang_dialect
from penstock.adapters.engines.vllm import vllm_dialect
from penstock.adapters.weights.errors import WeightsError
from penstock.adapters.weights.reference import HubReference, is_fetched, parse_reference
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.spec.weights import WeightFile, is_weight_path, listing_digest

EXAMPLE = "hf:owner/repo@revision or file:/absolute/folder"
MODEL_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})


def server_dialect(
    kind: str,
    source: str,
    limits: EngineLimits,
    *,
    located: Callable[[], Path],
    ground: ServerGround,
) -> Dialect:
    """`located` finds the folder of the source. Raises EngineFailed for a source we do not know."""
    model = folder_name(kind, source)
    build = sglang_dialect if kind == "sglang" else vllm_dialect
    return build(model, lambda: checked(kind, located()), limits, ground=ground)


def folder_name(kind: str, source: str) -> str:
    """The model's name in requests: that of its folder or repository. Raises EngineFailed."""
    if is_fetched(source):
        try:
            reference = parse_reference(source)
        except WeightsError as error:
            raise unknown_source(kind, source, EXAMPLE) from error
        return reference.repo.rpartition("/")[2] if isinstance(reference, HubReference) else kind
    scheme, _, rest = source.partition(":")
    if scheme != "file" or not rest.startswith("/"):
        raise unknown_source(kind, source, EXAMPLE)
    return Path(rest).name


def folder_digest(kind: str, source: str) -> str:
    """What names the model's folder, as weights are named (spec/weights.py). Raises EngineFailed."""
    folder_name(kind, source)
    if is_fetched(source):
        raise digest_unknown(source)
    folder = checked(kind, Path(source.partition(":")[2]))
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return listing_digest(
        [
            WeightFile(name, digest_hex(path), path.stat().st_size)
            for name, path in names.items()
            if path.is_file() and path.suffix in MODEL_SUFFIXES and is_weight_path(name)
        ]
    )


def checked(kind: str, folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    raise EngineFailed(
        reason=f"There is no model for {kind} in {folder}: config.json is missing.",
        log_tail="",
        remedy=f"Put it there, or correct the source in the manifest: ls -l {folder}",
    )
