"""Imports go down only. The contracts stand in pyproject.toml; import-linter checks them."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = Path(sys.executable).with_name("lint-imports")
CONTRACTS = {"layers", "station", "adapters", "acyclic"}


def linted(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "--no-cache", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_contracts_that_hold_the_house_up_are_named() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in settings["contracts"]}
    assert set(contracts) >= CONTRACTS
    assert contracts["layers"]["exhaustive"]
    assert contracts["layers"]["layers"][0] == "cli"
    assert contracts["layers"]["layers"][-1] == "spec"


def test_every_import_in_the_package_goes_down() -> None:
    done = linted(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_goes_up_would_be_found(tmp_path: Path) -> None:
    """The tool is run on a small package of the same shape, with one import the wrong way."""
    package = tmp_path / "house"
    for layer in ("roof", "cellar"):
        (package / layer).mkdir(parents=True)
        (package / layer / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "cellar" / "__init__.py").write_text("import house.roof\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "house"\n'
        '[[tool.importlinter.contracts]]\nname = "down"\ntype = "layers"\n'
        'containers = ["house"]\nlayers = ["roof", "cellar"]\n'
    )
    done = linted(tmp_path)
    assert done.returncode == 1
    assert "house.cellar -> house.roof" in done.stdout
