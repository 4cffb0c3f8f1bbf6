"""chute.toml: what an author may write, and what each mistake is told."""

from importlib.resources import files
from pathlib import Path

import pytest
from tests.makers import OWNER

from penstock.cli.chute_file import read_chute_file
from penstock.cli.errors import Stop
from penstock.cli.plan import BUILTIN_CHUTES
from penstock.spec.messages import Modality, chute_id

WHOLE = """
name = "my-chat"
modality = "chat"
engine = "echo"
source = "echo"
hardware = "cpu"
instances_min = 1
instances_max = 2
[limits]
context_tokens_max = 100
output_tokens_max = 10
parallel_max = 2
[price_usd_per_million]
prompt = "0.05"
completion = 1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "chute.toml"
    path.write_text(text)
    return path


def test_a_whole_file_is_a_manifest_with_integer_prices(tmp_path: Path) -> None:
    manifest = read_chute_file(written(tmp_path, WHOLE), owner=OWNER.identity)
    assert manifest.name == "my-chat"
    assert manifest.modality is Modality.CHAT
    assert manifest.price_max.prompt == 50_000_000
    assert manifest.price_max.completion == 1_000_000_000
    assert manifest.price_max.cached == 0
    assert manifest.limits.parallel_max == 2


def test_the_same_file_is_the_same_chute(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    first = read_chute_file(path, owner=OWNER.identity)
    assert chute_id(first) == chute_id(read_chute_file(path, owner=OWNER.identity))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "my-chat"', 'name = "My Chat"', "can be served"),
        ('name = "my-chat"', "", "name must be a text"),
        ('modality = "chat"', 'modality = "video"', "modality"),
        ("instances_min = 1", "instances_min = 3", "instances_min"),
        ("instances_min = 1", "instances_min = true", "a whole number"),
        ("parallel_max = 2", "parallel_max = 0", "limits"),
        ("parallel_max = 2", "parallel_min = 1", "parallel_min"),
        ('prompt = "0.05"', 'prompt = "free"', "not a price"),
        ('prompt = "0.05"', 'prompt = "-1"', "not a price"),
        ('prompt = "0.05"', 'prompt = "0.0000000001"', "not a price"),
        ('prompt = "0.05"', "prompt = 0.05", "not a price"),
        ('prompt = "0.05"', 'prompt = "NaN"', "not a price"),
        ('prompt = "0.05"', "prompt = true", "not a price"),
        ("[limits]", "colour = 1\n[limits]", "colour"),
        ('name = "my-chat"', "name = ", "not TOML"),
    ],
)
def test_each_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    with pytest.raises(Stop) as caught:
        read_chute_file(written(tmp_path, WHOLE.replace(old, new, 1)), owner=OWNER.identity)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="cannot read"):
        read_chute_file(tmp_path / "nope.toml", owner=OWNER.identity)


@pytest.mark.parametrize("name", BUILTIN_CHUTES)
def test_the_chutes_that_ship_are_valid(name: str) -> None:
    path = Path(str(files("penstock.cli") / "chutes" / f"{name}.toml"))
    assert read_chute_file(path, owner=OWNER.identity).name == name
