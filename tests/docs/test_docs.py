"""The documentation is true: its commands exist, its code runs, its generated pages are current."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tools.docs import PAGES

from penstock.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES_BY_HAND = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")]
    if str(path.relative_to(ROOT)) not in PAGES
)
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("name", [*PAGES])
def test_generated_pages_are_current(name: str) -> None:
    assert (ROOT / name).read_text() == PAGES[name](), "run: make docs"


@pytest.mark.parametrize("name", names(PAGES_BY_HAND))
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{name} links to {link}"


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {link for link in LINK.findall((ROOT / "README.md").read_text()) if "://" not in link}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.*")}
    assert pages - linked == set()


@pytest.mark.parametrize("name", names(PAGES_BY_HAND))
def test_commands_in_pages_exist_with_their_options(name: str) -> None:
    for line in commands((ROOT / name).read_text()):
        words = shlex.split(line, comments=True)
        check_command(main, words[1:], line)


@pytest.mark.parametrize("name", names(PAGES_BY_HAND))
def test_python_in_pages_is_python(name: str) -> None:
    for language, code in FENCE.findall((ROOT / name).read_text()):
        if language == "python":
            compile(code, name, "exec")


def test_the_example_with_the_fake_market_runs() -> None:
    codes = [code for _, code in FENCE.findall((ROOT / "docs/call.md").read_text())]
    (code,) = [code for code in codes if "FakeMarket" in code]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_chute_in_the_guide_is_a_chute(tmp_path: Path) -> None:
    from tests.makers import OWNER

    from penstock.cli.chute_file import read_chute_file

    codes = FENCE.findall((ROOT / "docs/deploy.md").read_text())
    (code,) = [code for language, code in codes if language == "toml"]
    path = tmp_path / "chute.toml"
    path.write_text(code)
    read_chute_file(path, owner=OWNER.identity)
    for example in sorted((ROOT / "examples").glob("*.toml")):
        read_chute_file(example, owner=OWNER.identity)


def test_the_miners_configuration_in_the_guide_is_one() -> None:
    from penstock.miner.config import parse_config

    codes = FENCE.findall((ROOT / "docs/mine.md").read_text())
    (code,) = [code for language, code in codes if language == "json"]
    assert parse_config(code.encode(), place="docs/mine.md").name == "my-miner"


def test_every_target_of_make_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert targets == explained


def test_every_dependency_has_a_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    text = (ROOT / "docs/adr/0007-dependencies.md").read_text()
    missing = []
    for requirement in wanted:
        name = re.split(r"[><=\[]", requirement)[0]
        if name not in text and name.removeprefix("pytest-") not in text:
            missing.append(name)
    assert missing in ([], ["asyncpg-stubs"]), missing


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/adr").glob("*.md")), ids=lambda path: path.stem
)
def test_decisions_are_short_and_numbered(path: Path) -> None:
    text = path.read_text()
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    assert "Status:" in text
    assert len(text.splitlines()) <= 60


def test_a_page_with_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(AssertionError):
        check_command(main, ["upp"], "penstock upp")
    with pytest.raises(AssertionError):
        check_command(main, ["up", "--detached"], "penstock up --detached")


def commands(text: str) -> list[str]:
    """Lines of untagged code blocks that call penstock."""
    found = []
    for language, code in FENCE.findall(text):
        if language in {"", "bash", "sh"}:
            lines = code.replace("\\\n", " ").splitlines()
            found += [line.strip() for line in lines if re.match(r"\s*(\S*/)?penstock\s", line)]
    return found


def check_command(group: click.Group, words: list[str], line: str) -> None:
    """The command and each of its options exist."""
    context = click.Context(group)
    command = group.get_command(context, words[0])
    assert command is not None, f"{line}: no command {words[0]}"
    if isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
        check_command(command, words[1:], line)
        return
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    used = [word.split("=")[0] for word in words[1:] if word.startswith("-") and len(word) > 1]
    unknown = [option for option in used if option not in options | {"--help"}]
    assert not unknown, f"{line}: no option {unknown}"


def test_all_commands_are_in_the_generated_page() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert all(f"## penstock {name}" in text for name in COMMANDS)
