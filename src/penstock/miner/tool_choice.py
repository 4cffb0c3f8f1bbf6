"""Which tools a model may or must call, said so that every engine follows it.

Engines know `auto`, `none` and `required`, and take a named function for `required`, so that any
other of the tools may be called. With only the named tools sent along, `required` says it exactly.
"""

from typing import Any, NoReturn

from penstock.miner.errors import RequestUnservable

PARAM = "tool_choice"
MODES = frozenset({"auto", "required"})


def choose_tools(fields: dict[str, Any]) -> None:
    """Bring `tool_choice` down to a word, and `tools` to those that it names; in place.

    Raises RequestUnservable.
    """
    choice = fields.get(PARAM)
    if choice in (None, "auto", "none"):
        return
    tools = fields.get("tools")
    if not isinstance(tools, list) or not tools:
        _refuse("tool_choice asks for a call, and there are no tools. Send `tools` too.")
    if choice == "required":
        return
    mode, names = _meant(choice)
    named = [tool for tool in tools if _name(tool) in names]
    missing = names - {_name(tool) for tool in named}
    if missing or not named:
        name = min(missing, default="")[:80]
        _refuse(f"tool_choice names {name!r}, and no tool here is called so.")
    fields["tools"], fields[PARAM] = named, mode


def _meant(choice: object) -> tuple[str, set[str]]:
    """(the word, the names of the tools that may be called)."""
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", {name}
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": list(tools)}}:
            if mode in MODES:
                return mode, {_name(tool) for tool in tools}
    return _refuse(
        "tool_choice must be auto, none, required, or name a function: "
        '{"type": "function", "function": {"name": ...}}.'
    )


def _name(tool: object) -> str:
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    return ""


def _refuse(message: str) -> NoReturn:
    raise RequestUnservable("invalid_request", message, PARAM)
