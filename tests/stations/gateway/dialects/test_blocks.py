"""The row of blocks by itself: one open at a time, nothing lost, nothing told twice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.dialects.blocks import Block, BlockRow, Kind, add_words, is_object
from penstock.gateway.dialects.chat_answer import FunctionText, Logprobs, ToolCall, Words

THOUGHT, TEXT, REFUSAL = Kind.REASONING, Kind.TEXT, Kind.REFUSAL


class Notes:
    """Writes down what it is told to write, and checks that one block is open at a time."""

    def __init__(self) -> None:
        self.open: Block | None = None
        self.told: list[str] = []
        self.cut: list[bool] = []

    def begin(self, block: Block) -> bytes:
        assert self.open is None
        assert block.place == len(self.told)
        self.open = block
        self.told.append("")
        return b"("

    def more(self, block: Block, text: str, *, logprobs: Logprobs | None) -> bytes:
        assert block is self.open
        assert text
        self.told[-1] += text
        return text.encode()

    def finish(self, block: Block, *, is_cut: bool) -> bytes:
        assert block is self.open
        self.open = None
        self.cut.append(is_cut)
        return b")"


def row() -> tuple[BlockRow, Notes]:
    notes = Notes()
    return BlockRow(notes, "r"), notes


def test_words_of_one_kind_are_one_block() -> None:
    made, notes = row()
    assert made.add(TEXT, "a") == b"(a"
    assert made.add(TEXT, "b") == b"b"
    assert made.close(is_cut=False) == b")"
    assert notes.told == ["ab"]


def test_another_kind_closes_the_block_before_it() -> None:
    made, _ = row()
    made.add(THOUGHT, "a")
    assert made.add(TEXT, "b") == b")(b"
    assert made.add(REFUSAL, "c") == b")(c"


def test_a_call_whose_arguments_are_not_whole_holds_up_what_follows() -> None:
    made, notes = row()
    assert made.add_call(0, "x", name="f", arguments='{"a"') == b'({"a"'
    assert made.add(TEXT, "b") == b""
    assert made.add(TEXT, "c") == b""
    assert made.add_call(0, "", name="", arguments=":1}") == b":1}"
    assert made.close(is_cut=False) == b")(bc)"
    assert notes.told == ['{"a":1}', "bc"]


def test_only_the_last_block_of_a_cut_answer_is_cut() -> None:
    made, notes = row()
    made.add_call(0, "x", name="f", arguments='{"a"')
    made.add(TEXT, "b")
    made.close(is_cut=True)
    assert notes.cut == [False, True]


def test_a_row_without_blocks_closes_without_a_word() -> None:
    made, _ = row()
    assert made.close(is_cut=True) == b""
    assert made.blocks == []


def test_a_call_waits_for_its_name_and_then_tells_all_it_has() -> None:
    made, notes = row()
    assert made.add_call(0, "x", name="", arguments="{") == b""
    assert made.add_call(0, "", name="", arguments="}") == b""
    assert made.add_call(0, "", name="f", arguments="") == b"({}"
    assert notes.told == ["{}"]
    assert made.blocks[0].name == "f"


def test_the_last_call_is_found_again_without_a_key() -> None:
    made, _ = row()
    assert made.last_key() == 0
    made.add_call("x", "x", name="f", arguments="")
    made.add_call("y", "y", name="f", arguments="")
    assert made.last_key() == "y"


def test_a_call_without_a_function_is_a_call_without_a_name() -> None:
    made, notes = row()
    assert add_words(made, Words(tool_calls=[ToolCall(index=0)])) == b""
    made.close(is_cut=False)
    assert notes.told == [""]


def test_a_delta_may_say_everything_at_once() -> None:
    made, notes = row()
    call = ToolCall(index=0, id="x", function=FunctionText(name="f", arguments="{}"))
    add_words(made, Words(reasoning="a", content="b", refusal="c", tool_calls=[call]))
    made.close(is_cut=False)
    assert notes.told == ["a", "b", "c", "{}"]
    assert [block.kind for block in made.blocks] == [THOUGHT, TEXT, REFUSAL, Kind.CALL]


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("{}", True),
        (' {"a": [1, {"b": "}"}]} ', True),
        ("", False),
        ("{", False),
        ("[]", False),
        ('{"a": 1}}', False),
        ('{"a":' * 5000 + "1" + "}" * 5000, False),
    ],
)
def test_a_whole_object_is_told_from_a_part_of_one(text: str, is_whole: bool) -> None:
    assert is_object(text) is is_whole


WORDS = st.tuples(st.sampled_from([THOUGHT, TEXT, REFUSAL]), st.text("ab", min_size=1, max_size=3))
CALLS = st.tuples(st.integers(0, 2), st.text('{}"a:1', max_size=4))


@given(st.lists(WORDS | CALLS, max_size=20), st.booleans())
def test_whatever_comes_every_block_is_told_once_and_in_full(
    said: list[tuple[Kind, str] | tuple[int, str]], is_cut: bool
) -> None:
    made, notes = row()
    for what, text in said:
        if isinstance(what, Kind):
            made.add(what, text)
        else:
            made.add_call(what, f"c{what}", name="f", arguments=text)
    made.close(is_cut=is_cut)
    assert notes.open is None
    assert notes.told == [block.text() for block in made.blocks]
    assert sum(notes.cut) == (is_cut and bool(made.blocks))
    words = "".join(text for what, text in said if isinstance(what, Kind))
    told = "".join(block.text() for block in made.blocks if block.kind is not Kind.CALL)
    assert sorted(told) == sorted(words)


@given(st.lists(st.dictionaries(st.text("k", max_size=1), st.integers()), min_size=1, max_size=3))
def test_calls_one_after_the_other_never_wait(calls: list[dict[str, int]]) -> None:
    made, notes = row()
    for place, arguments in enumerate(calls):
        for piece in json.dumps(arguments):
            assert made.add_call(place, f"c{place}", name="f", arguments=piece)
        assert notes.told[place] == json.dumps(arguments)
