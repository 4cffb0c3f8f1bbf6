"""An owner's placement is loaded from a file; what is wrong with it is said in words."""

from pathlib import Path

import pytest

from penstock.adapters.errors import FileExposed
from penstock.adapters.placement_plugin import OwnPlacement, PlacementUnusable, load_placement


def written(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_function_is_a_placement(tmp_path: Path) -> None:
    name = written(tmp_path, "def choose(situation):\n    return ('seen', situation)\n")
    assert load_placement(name).choose(7) == ("seen", 7)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1\n", "no function `choose"),
        ("def choose(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("undefined_name\n", "NameError"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(PlacementUnusable, match=why):
        load_placement(written(tmp_path, text))


def test_a_file_that_others_could_write_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    name = written(tmp_path, f"open({str(ran)!r}, 'w')\ndef choose(s):\n    return None\n")
    Path(name).chmod(0o666)
    with pytest.raises(FileExposed):
        load_placement(name)
    assert not ran.exists()


def test_a_missing_file_and_an_unknown_entry_point_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlacementUnusable, match="No such file"):
        load_placement(str(tmp_path / "none.py"))
    with pytest.raises(PlacementUnusable, match=r"penstock\.placement"):
        load_placement("nobody-installed-this")


def test_it_is_loaded_when_it_is_first_asked(tmp_path: Path) -> None:
    own = OwnPlacement(str(tmp_path / "mine.py"))
    with pytest.raises(PlacementUnusable):
        own.choose(1)
    written(tmp_path, "def choose(situation):\n    return situation + 1\n")
    assert own.choose(1) == 2
    written(tmp_path, "def choose(situation):\n    return situation + 100\n")
    assert own.choose(1) == 2, "once loaded it stays"
