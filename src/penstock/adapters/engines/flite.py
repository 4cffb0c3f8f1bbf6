"""Text to speech: Flite (BSD-like) and its voices, in a worker of our own.

The program on PATH is used if there is one. Otherwise the packages of Debian 12 are fetched, which hold
it with all its voices (13 MB), and unpacked into the engine's home; no root is needed. With them comes
the library that Flite would play sound with: it is never used, but Flite does not start without it.
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from penstock.adapters.engines.debian_package import (
    Fetch,
    Package,
    fetched,
    packages_folder,
    unpack,
)
from penstock.adapters.engines.worker import FrameSettings
from penstock.adapters.engines.worker_engine import Worker
from penstock.adapters.errors import PackageBroken
from penstock.kit.engine import EngineFailed, EngineLimits

SOURCE = "deb:flite@2.2"
MODEL = "flite"
QUEUE_PER_SLOT = 8
INSTALL = "Run `pip install 'penstock[miner]'` in the miner's environment."
REMEDY = "Install it: apt install flite, dnf install flite, or brew install flite."

PACKAGES: Mapping[str, tuple[Package, ...]] = {
    "x86_64": (
        Package(
            "f/flite/flite_2.2-5_amd64.deb",
            "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9",
            252_784,
        ),
        Package(
            "f/flite/libflite1_2.2-5_amd64.deb",
            "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061",
            12_823_776,
        ),
        Package(
            "a/alsa-lib/libasound2_1.2.8-1+b1_amd64.deb",
            "44c77b076a7b11ae99712439022d822245b1994c435da564ebd320bb676faf4c",
            361_788,
        ),
    ),
    "aarch64": (
        Package(
            "f/flite/flite_2.2-5_arm64.deb",
            "f5114e5cb90bc1f9705b1810eb0c9865ead13ad727feaa3df47d167b68cd11f3",
            252_272,
        ),
        Package(
            "f/flite/libflite1_2.2-5_arm64.deb",
            "a32d8cfe4eda5e98dc4332ffb2520d3fb65565265bb869eb101f6b8b21f0115d",
            12_814_836,
        ),
        Package(
            "a/alsa-lib/libasound2_1.2.8-1+b1_arm64.deb",
            "9fa889400fcee4b92c8f4a2fafbb7f2cd33444d9ec1665a71002ab67c06114bb",
            327_044,
        ),
    ),
}


class FliteSettings(FrameSettings, frozen=True, kw_only=True):
    """`program` is run with `libraries` (a folder, "" for the system's own) on its library path."""

    program: str
    libraries: str


def flite_worker(
    limits: EngineLimits, *, home: Path, env: Mapping[str, str], fetch: Fetch
) -> Worker:
    """A worker that speaks with the Flite of this machine, or with one that is fetched."""

    def prepare() -> FliteSettings:
        if find_spec("soundfile") is None:
            raise EngineFailed(
                reason="The packages for speech are not installed.", log_tail="", remedy=INSTALL
            )
        program, libraries = flite_program(home, env=env, fetch=fetch)
        return FliteSettings(
            model=MODEL,
            slots_max=limits.slots_max,
            queue_max=QUEUE_PER_SLOT * limits.slots_max,
            threads=limits.threads,
            program=str(program),
            libraries=libraries,
        )

    return Worker(
        title="Flite",
        model=MODEL,
        module="penstock.adapters.engines.flite_worker",
        prepare=prepare,
        remedy=REMEDY,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def flite_program(home: Path, *, env: Mapping[str, str], fetch: Fetch) -> tuple[Path, str]:
    """(the program, the folder of its libraries or ""). Raises EngineFailed."""
    present = shutil.which("flite", path=env.get("PATH", os.defpath))
    if present is not None:
        return Path(present), ""
    packages = PACKAGES.get(platform.machine()) if sys.platform == "linux" else None
    if packages is None:
        raise EngineFailed(
            reason="There is no program flite on this machine.", log_tail="", remedy=REMEDY
        )
    folder = home / "flite-2.2-5"
    if not folder.is_dir():
        try:
            install(folder, packages, fetch, cache=packages_folder(env))
        except (PackageBroken, OSError) as error:
            raise EngineFailed(
                reason=f"There is no program flite here. {error}", log_tail="", remedy=REMEDY
            ) from error
    return folder / "flite", str(folder)


def install(folder: Path, packages: Iterable[Package], fetch: Fetch, *, cache: Path | None) -> None:
    """All or nothing: two miners may do it at once, a cut leaves no half. Raises PackageBroken, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        for package in packages:
            data = fetched(package, fetch, cache=cache)
            unpack(data, half, name=package.name, wanted=is_ours)
        half.chmod(0o755)
        half.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def is_ours(name: str) -> bool:
    """The program and the shared libraries; nothing else of the packages is needed."""
    return name == "flite" or (name.startswith(("libflite", "libasound")) and ".so" in name)


def model_hex() -> str:
    """What names the voices: the packages they come in. The same on every machine, though a Flite on PATH
    may be of another build.
    """
    packages = sorted(one.sha256 for one in PACKAGES["x86_64"][:2])
    return hashlib.sha256("\n".join(packages).encode()).hexdigest()
