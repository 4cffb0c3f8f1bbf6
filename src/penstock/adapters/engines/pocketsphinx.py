"""Speech to text: PocketSphinx (BSD) with the US-English model of its wheel, in a worker of our own."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from penstock.adapters.engines.flite import INSTALL
from penstock.adapters.engines.model_files import digest_hex
from penstock.adapters.engines.worker import FrameSettings
from penstock.adapters.engines.worker_engine import Worker
from penstock.kit.engine import EngineFailed, EngineLimits

SOURCE = "pypi:pocketsphinx"
MODEL = "pocketsphinx-en-us"
UPLOAD_BYTES_MAX = 64 << 20
QUEUE_PER_SLOT = 4


def pocketsphinx_worker(limits: EngineLimits) -> Worker:
    """One decoder a thread; what comes besides waits."""

    def prepare() -> FrameSettings:
        package_folder()
        return FrameSettings(
            model=MODEL,
            slots_max=limits.threads,
            queue_max=QUEUE_PER_SLOT * limits.slots_max,
            threads=limits.threads,
            body_bytes_max=UPLOAD_BYTES_MAX,
        )

    return Worker(
        title="PocketSphinx",
        model=MODEL,
        module="penstock.adapters.engines.pocketsphinx_worker",
        prepare=prepare,
        remedy=INSTALL,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def package_folder() -> Path:
    """Where the package is installed. Raises EngineFailed."""
    found = find_spec("pocketsphinx")
    if found is None or found.origin is None or find_spec("soundfile") is None:
        raise EngineFailed(
            reason="The packages for speech are not installed.", log_tail="", remedy=INSTALL
        )
    return Path(found.origin).parent


def model_hex() -> str:
    """The digest of the model's files, each by its name. Raises EngineFailed."""
    folder = package_folder() / "model" / "en-us"
    lines = [
        f"{path.relative_to(folder).as_posix()} {digest_hex(path)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
