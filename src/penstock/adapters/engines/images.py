"""Engines that draw: where their models are, and how their workers are started.

| kind | source | needs |
|---|---|---|
| `images` | `builtin:tiny-image`, `file:/absolute/folder` or a fetched folder | nothing more |
| `diffusers` | the same, any folder in diffusers' layout | `pip install penstock[heavy]` |
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from penstock.adapters.engines.images_settings import (
    INDEX_FILE,
    SETTINGS_FILE,
    DiffusersSettings,
    ImagesSettings,
)
from penstock.adapters.engines.model_files import (
    MODELS_FOLDER,
    digest_hex,
    digest_unknown,
    unknown_source,
)
from penstock.adapters.engines.worker_engine import Worker
from penstock.adapters.weights.errors import WeightsError
from penstock.adapters.weights.reference import HubReference, is_fetched, parse_reference
from penstock.kit.engine import EngineFailed, EngineLimits
from penstock.spec.weights import WeightFile, is_weight_path, listing_digest

BUILTIN = "tiny-image"
QUEUE_PER_SLOT = 4
MODEL_SUFFIXES = frozenset({".json", ".model", ".onnx", ".safetensors", ".txt"})
DIFFUSERS_PACKAGES = ("diffusers", "torch", "transformers")


def images_worker(source: str, limits: EngineLimits, *, fetched: Callable[[], Path]) -> Worker:
    """`fetched` finds a source that was fetched. Raises EngineFailed for a source we do not know;
    whether it is there is asked at start.
    """
    name = images_name("images", source)

    def prepare() -> ImagesSettings:
        folder = fetched() if is_fetched(source) else images_folder("images", source)
        return ImagesSettings(
            model=name,
            slots_max=limits.slots_max,
            queue_max=QUEUE_PER_SLOT * limits.slots_max,
            threads=limits.threads,
            folder=str(checked(folder, SETTINGS_FILE)),
        )

    return Worker(
        title="The image engine",
        model=name,
        module="penstock.adapters.engines.images_worker",
        prepare=prepare,
        remedy="Check that the folder holds images.json and a model.onnx beside each part's weights.",
        env={"OMP_NUM_THREADS": str(limits.threads), "OPENBLAS_NUM_THREADS": str(limits.threads)},
    )


def diffusers_worker(source: str, limits: EngineLimits, *, fetched: Callable[[], Path]) -> Worker:
    """As `images_worker`; packages are asked for at start too. A pipeline draws one at a time."""
    name = images_name("diffusers", source)

    def prepare() -> DiffusersSettings:
        check_packages(DIFFUSERS_PACKAGES)
        folder = fetched() if is_fetched(source) else images_folder("diffusers", source)
        return DiffusersSettings(
            model=name,
            slots_max=1,
            queue_max=QUEUE_PER_SLOT * limits.slots_max,
            threads=limits.threads,
            folder=str(checked(folder, INDEX_FILE)),
        )

    return Worker(
        title="diffusers",
        model=name,
        module="penstock.adapters.engines.diffusers_worker",
        prepare=prepare,
        remedy="Check that the folder is a whole diffusers model in safetensors that fits into memory.",
        env={"OMP_NUM_THREADS": str(limits.threads), "HF_HUB_OFFLINE": "1"},
    )


def images_name(kind: str, source: str) -> str:
    """The model's name in requests: that of its folder or repository. Raises EngineFailed."""
    if not is_fetched(source):
        return images_folder(kind, source).name
    try:
        reference = parse_reference(source)
    except WeightsError as error:
        raise unknown_source(kind, source, "hf:owner/repo@revision") from error
    return reference.repo.rpartition("/")[2] if isinstance(reference, HubReference) else kind


def images_folder(kind: str, source: str) -> Path:
    """Where the model of a source on this machine should be. Raises EngineFailed."""
    scheme, _, rest = source.partition(":")
    if source == f"builtin:{BUILTIN}":
        return MODELS_FOLDER / BUILTIN
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    raise unknown_source(
        kind, source, f"builtin:{BUILTIN}, file:/absolute/folder or hf:owner/repo@revision"
    )


def images_digest(kind: str, source: str) -> str:
    """What names the model's folder, as weights are named (spec/weights.py). Raises EngineFailed."""
    if is_fetched(source):
        images_name(kind, source)
        raise digest_unknown(source)
    folder = checked(images_folder(kind, source), SETTINGS_FILE if kind == "images" else INDEX_FILE)
    places = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return listing_digest(
        [
            WeightFile(name, digest_hex(path), path.stat().st_size)
            for name, path in places.items()
            if path.is_file() and path.suffix in MODEL_SUFFIXES and is_weight_path(name)
        ]
    )


def checked(folder: Path, file: str) -> Path:
    if (folder / file).is_file():
        return folder
    raise EngineFailed(
        reason=f"There is no model in {folder}: {file} is missing.",
        log_tail="",
        remedy=f"Put it there, or correct the source in the manifest: ls -l {folder}",
    )


def check_packages(names: tuple[str, ...]) -> None:
    """Raises EngineFailed with the command that installs what is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise EngineFailed(
            reason=f"This engine needs {', '.join(missing)}.",
            log_tail="",
            remedy="Run `make up ALL=1`, or `pip install penstock[heavy]` where the miner runs.",
        )
