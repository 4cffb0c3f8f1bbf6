"""A named function is the one that is called, whatever engines make of the name."""

from typing import Any

import pytest

from penstock.miner.errors import RequestUnservable
from penstock.miner.tool_choice import choose_tools


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


BOTH = [tool("weather"), tool("add")]


def chosen(choice: object, tools: object = BOTH) -> dict[str, Any]:
    fields: dict[str, Any] = {"tools": tools, "tool_choice": choice}
    choose_tools(fields)
    return fields


def test_a_named_function_is_the_only_one_and_required() -> None:
    assert chosen(tool("add")) == {"tools": [tool("add")], "tool_choice": "required"}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_of_allowed_tools_only_those_are_sent(mode: str) -> None:
    allowed = {"mode": mode, "tools": [tool("add")]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert chosen(choice) == {"tools": [tool("add")], "tool_choice": mode}


@pytest.mark.parametrize("choice", [None, "auto", "none", "required"])
def test_a_word_stays_as_it_is(choice: object) -> None:
    assert chosen(choice) == {"tools": BOTH, "tool_choice": choice}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_word_that_demands_nothing_needs_no_tools(choice: object) -> None:
    assert chosen(choice, tools=None)["tool_choice"] == choice


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("required", None),
        ("required", []),
        (tool("add"), None),
        (tool("other"), BOTH),
        (tool(""), BOTH),
        ("bogus", BOTH),
        (5, BOTH),
        ({}, BOTH),
        ({"type": "custom", "custom": {"name": "add"}}, BOTH),
        ({"type": "function", "function": {}}, BOTH),
        ({"type": "allowed_tools"}, BOTH),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": BOTH}}, BOTH),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, BOTH),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("x")]}}, BOTH),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(choice: object, tools: object) -> None:
    with pytest.raises(RequestUnservable) as caught:
        chosen(choice, tools)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "tool_choice")


def test_the_name_that_is_missing_is_told() -> None:
    with pytest.raises(RequestUnservable, match="'other'"):
        chosen(tool("other"))
