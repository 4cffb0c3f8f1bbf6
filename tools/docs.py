"""Writes the generated pages of docs/: protocol.md from the law's docstrings, cli.md from --help,
errors.md and settings.md from the stations, openapi.json from what the gateway reads, and the table of
metrics in observe.md.

`tools/docs.py` writes them; `tools/docs.py --check` exits 1 when a page is not what it would write.
"""

import ast
import sys
from pathlib import Path

import click
import msgspec
from tools.reference import errors_page, settings_page

from penstock import __version__
from penstock.cli.main import COMMANDS, main
from penstock.gateway.meters import METERS
from penstock.gateway.openapi import document

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "src/penstock/spec"
# In the order in which one understands them.
READING_ORDER = (
    "units",
    "params",
    "canon",
    "keys",
    "messages",
    "stream",
    "receipts",
    "pricing",
    "books",
    "accounts",
    "log",
    "seals",
    "sessions",
    "tunnels",
    "notes",
    "entries",
    "medians",
    "prefixes",
    "routing",
    "demand",
    "life",
    "evidence",
    "verdicts",
    "scoring",
    "yuma",
    "consensus",
    "shares",
    "settlement",
    "weights",
    "errors",
)
METRICS_BEGIN = "<!-- metrics: written by `make docs` from gateway/meters.py -->\n"
METRICS_END = "<!-- end of metrics -->\n"
NOTE = "<!-- Written by `make docs`; edit the source instead. -->\n"


def protocol_page() -> str:
    """The law in reading order: each module's purpose and each public name with its rule."""
    found = {path.stem for path in SPEC.glob("*.py")} - {"__init__"}
    assert found == set(READING_ORDER), f"READING_ORDER lacks {found ^ set(READING_ORDER)}"
    parts = [
        NOTE,
        "# The protocol\n",
        "What follows is the law itself: the docstrings of `src/penstock/spec`, in reading order. The",
        "code beside them is normative; the vectors under `vectors/` are made from it.\n",
    ]
    for name in READING_ORDER:
        parts += _module(name)
    return "\n".join(parts).rstrip() + "\n"


def _module(name: str) -> list[str]:
    tree = ast.parse((SPEC / f"{name}.py").read_text())
    lines = [f"## {name}\n", ast.get_docstring(tree) or "", ""]
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        about = ast.get_docstring(node)
        if about:
            lines += [f"### `{_signature(node)}`\n", about, ""]
    return lines


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        fields = [
            f"{one.target.id}: {ast.unparse(one.annotation)}"
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]
        return f"{node.name}({', '.join(fields)})" if fields else node.name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def cli_page() -> str:
    """Every command's help, as it prints it."""
    context = click.Context(main, info_name="penstock", terminal_width=100, **main.context_settings)
    parts = [NOTE, "# The command line\n", "```text", main.get_help(context), "```\n"]
    for name in COMMANDS:
        parts += _command(context, name)
    return "\n".join(parts).rstrip() + "\n"


def _command(parent: click.Context, name: str) -> list[str]:
    command = main.get_command(parent, name)
    assert command is not None, f"no command {name}"
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    lines = [f"## penstock {name}\n", "```text", command.get_help(context), "```\n"]
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            one = command.get_command(context, below)
            assert one is not None, f"no command {name} {below}"
            inner = click.Context(one, info_name=below, parent=context, terminal_width=100)
            lines += ["```text", one.get_help(inner), "```\n"]
    return lines


def openapi_page() -> str:
    """The gateway's own OpenAPI document, one member a line."""
    encoded = msgspec.json.encode(document(__version__))
    return msgspec.json.format(encoded, indent=1).decode() + "\n"


def observe_page() -> str:
    """docs/observe.md as it is, with the table of metrics of today."""
    text = (ROOT / "docs/observe.md").read_text()
    before, begin, rest = text.partition(METRICS_BEGIN)
    _, end, after = rest.partition(METRICS_END)
    assert begin, "docs/observe.md has lost the mark before its table"
    assert end, "docs/observe.md has lost the mark after its table"
    lines = ["| metric | kind | what | labels |", "|---|---|---|---|"]
    for meter in METERS:
        labels = "; ".join(f"`{name}`: {about}" for name, about in meter.labels)
        lines.append(f"| `{meter.name}` | {meter.kind.value} | {meter.about} | {labels} |")
    return before + begin + "\n".join(lines) + "\n" + end + after


PAGES = {
    "docs/observe.md": observe_page,
    "docs/protocol.md": protocol_page,
    "docs/cli.md": cli_page,
    "docs/errors.md": errors_page,
    "docs/settings.md": settings_page,
    "docs/openapi.json": openapi_page,
}


def run(arguments: list[str]) -> int:
    """Write the pages, or compare with --check. Returns the exit status."""
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text)
    if "--check" in arguments and stale:
        print(f"stale: {', '.join(stale)}. Run: make docs")
        return 1
    print(f"{len(PAGES)} pages, {len(stale)} {'stale' if '--check' in arguments else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
