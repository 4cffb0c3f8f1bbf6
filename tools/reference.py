"""The tables of docs/errors.md and docs/settings.md, read from the source by its syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src/penstock"
PLACES = ("kit", "gateway", "miner", "market", "ledger", "validator")
STATIONS = ("gateway", "miner", "market", "ledger", "validator")
REFUSALS = frozenset({"problem", "OrderRefused", "Refused", "Rejected"})
NOTE = "<!-- Written by `make docs`; edit the source instead. -->\n"


def errors_page() -> str:
    """Every error code a caller can meet: who says it, with which status, and when."""
    rows = sorted({row for place in PLACES for row in _codes(place)})
    lines = [
        NOTE,
        "# Error codes\n",
        "Every error is OpenAI's envelope; `code` is stable and is what programs should read.\n",
        "| code | status | said by | when |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{code}` | {status} | {place} | {when} |" for code, status, place, when in rows]
    return "\n".join(lines) + "\n"


def _codes(place: str) -> Iterator[tuple[str, int, str, str]]:
    for path in sorted((SOURCE / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield from _of_class(place, node)
            elif isinstance(node, ast.Call):
                yield from _of_call(place, node)


def _of_class(place: str, node: ast.ClassDef) -> Iterator[tuple[str, int, str, str]]:
    values = {
        one.targets[0].id: one.value.value
        for one in node.body
        if isinstance(one, ast.Assign)
        and isinstance(one.targets[0], ast.Name)
        and isinstance(one.value, ast.Constant)
    }
    status, code = values.get("status"), values.get("code")
    if isinstance(status, int) and isinstance(code, str):
        yield code, status, place, _sentence(ast.get_docstring(node) or "")


def _of_call(place: str, node: ast.Call) -> Iterator[tuple[str, int, str, str]]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in REFUSALS or len(node.args) < 3:
        return
    status, code, message = node.args[:3]
    if not isinstance(status, ast.Constant) or not isinstance(code, ast.Constant):
        return
    if isinstance(status.value, int) and isinstance(code.value, str):
        yield code.value, status.value, place, _sentence(_text(message))


def _text(node: ast.expr) -> str:
    """The words of a literal or f-string, with an ellipsis where a value stands."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
        )
    return ""


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).replace("|", "/")


def settings_page() -> str:
    """Every field of every station's configuration file."""
    lines = [
        NOTE,
        "# Settings\n",
        "Each station reads one JSON file (`--config FILE`), once. `penstock up` writes them to",
        "`HOME/config/`. Unknown fields are refused. Protocol numbers are not here: see",
        "`src/penstock/spec/params.py`.\n",
    ]
    for station in STATIONS:
        lines += _station(station)
    return "\n".join(lines).rstrip() + "\n"


def _station(station: str) -> list[str]:
    tree = ast.parse((SOURCE / station / "config.py").read_text())
    structs = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    lines = [f"## {station}\n"]
    for node in reversed(structs):
        lines += [
            f"### {node.name}\n",
            _sentence(ast.get_docstring(node) or ""),
            "",
            "| field | type | default | |",
            "|---|---|---|---|",
            *_fields(node),
            "",
        ]
    return lines


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for index, one in enumerate(node.body):
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        following = node.body[index + 1] if index + 1 < len(node.body) else None
        about = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            about = _sentence(str(following.value.value))
        default = "(required)" if one.value is None else f"`{ast.unparse(one.value)}`"
        kind = ast.unparse(one.annotation).replace("|", "or")
        yield f"| `{one.target.id}` | {kind} | {default} | {about} |"
