"""Any legal chat stream, however it is cut, becomes a legal stream of the dialect with the same words."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.stations.gateway.dialects.chat_streams import (
    DONE,
    MESSAGES,
    RESPONSES,
    Json,
    asked,
    call_piece,
    chunk,
    event,
    read_events,
    told,
    usage,
    whole,
)
from tests.stations.gateway.dialects.grammar import check_messages, check_responses, item_text

TEXT = st.text(alphabet='ab \n"\\é漢', min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(st.text("kq", max_size=2), st.integers() | TEXT, max_size=3).map(
    json.dumps
)
FINISHES = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
PATHS = st.sampled_from([MESSAGES, RESPONSES])


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """The text cut anywhere, empty pieces included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Json, list[bytes]]:
    """(a whole message, the chunks of one stream of it): thoughts, words, then calls, interleaved."""
    thoughts, words = draw(st.none() | TEXT), draw(st.none() | TEXT)
    calls = draw(st.lists(ARGUMENTS, max_size=3))
    spelling = draw(st.sampled_from(["reasoning_content", "reasoning"]))
    deltas: list[Json] = []
    for name, text in ((spelling, thoughts), ("content", words)):
        deltas += [{name: piece} for piece in draw(pieces(text))] if text else []
    queues = []
    for place, arguments in enumerate(calls):
        first = call_piece(place, call=f"call{place}", name=f"f{place}")
        queue = [call_piece(place, piece) for piece in draw(pieces(arguments))]
        queues.append([first, *queue])
    while queues:
        queue = draw(st.sampled_from(queues))
        deltas.append({"tool_calls": [queue.pop(0)]})
        queues = [one for one in queues if one]
    message: Json = {
        "role": "assistant",
        "content": words,
        spelling: thoughts,
        "tool_calls": [
            {
                "id": f"call{place}",
                "type": "function",
                "function": {"name": f"f{place}", "arguments": text},
            }
            for place, text in enumerate(calls)
        ],
    }
    return message, [chunk(**delta) for delta in deltas]


@st.composite
def cut_anywhere(draw: st.DrawFn, events: list[bytes]) -> list[bytes]:
    """The same bytes, several events at once or one in pieces."""
    joined = b"".join(events)
    edges = sorted({0, len(joined), *draw(st.lists(st.integers(0, len(joined)), max_size=6))})
    return [joined[start:end] for start, end in pairwise(edges)]


def by_order(blocks: list[Any], names: list[str]) -> list[Any]:
    """Calls may begin in any order in a stream; their names say which they are."""
    return sorted(blocks, key=lambda block: names.index(block.get("name") or ""))


@given(answers(), FINISHES, st.data())
def test_a_message_streamed_is_the_message_whole(
    answer: tuple[Json, list[bytes]], finish: str, data: st.DataObject
) -> None:
    message, chunks = answer
    events = [*chunks, chunk(finish), usage(), DONE]
    one = json.loads(asked(MESSAGES).whole(whole(message, finish=finish)))
    stream = read_events(told(asked(MESSAGES), data.draw(cut_anywhere(events))))
    names = ["", "f0", "f1", "f2"]
    blocks = by_order(check_messages(stream), names)
    assert len(blocks) == len(one["content"])
    for streamed, said in zip(blocks, by_order(one["content"], names), strict=True):
        assert streamed["type"] == said["type"]
        if said["type"] == "tool_use":
            assert json.loads(streamed["joined"]) == said["input"]
            assert (streamed["id"], streamed["name"]) == (said["id"], said["name"])
        else:
            assert streamed["joined"] == said.get("text", said.get("thinking"))
    assert stream[-2]["delta"]["stop_reason"] == one["stop_reason"]
    assert stream[-2]["usage"] == one["usage"]


@given(answers(), FINISHES, st.booleans(), st.data())
def test_a_response_streamed_is_the_response_whole(
    answer: tuple[Json, list[bytes]], finish: str, shows_summary: bool, data: st.DataObject
) -> None:
    message, chunks = answer
    reasoning = {"summary": "auto"} if shows_summary else None
    events = [*chunks, chunk(finish), usage(), DONE]
    one = json.loads(asked(RESPONSES, reasoning=reasoning).whole(whole(message, finish=finish)))
    stream = told(asked(RESPONSES, reasoning=reasoning), data.draw(cut_anywhere(events)))
    response = check_responses(read_events(stream))
    names = ["", "f0", "f1", "f2"]
    streamed, said = by_order(response["output"], names), by_order(one["output"], names)
    assert [item_text(item) for item in streamed] == [item_text(item) for item in said]
    assert [item["type"] for item in streamed] == [item["type"] for item in said]
    assert [item.get("call_id") for item in streamed] == [item.get("call_id") for item in said]
    assert {**response, "output": []} == {**one, "output": []}


SOME_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "id",
                    "function",
                    "name",
                    "arguments",
                    "content",
                    "delta",
                    "error",
                    "message",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
ODD_CHUNKS = st.fixed_dictionaries(
    {}, optional={"choices": SOME_JSON, "usage": SOME_JSON, "error": SOME_JSON, "model": SOME_JSON}
).map(event)


def odd_chunk(delta: Any) -> bytes:
    return chunk(**delta)


ODD_DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": SOME_JSON,
        "tool_calls": SOME_JSON,
        "refusal": SOME_JSON,
        "reasoning": SOME_JSON,
    },
).map(odd_chunk)
ODD_CALLS = st.lists(
    st.builds(
        call_piece,
        st.none() | st.integers(0, 2),
        st.none() | st.text('{}"a:1 ', max_size=4),
        call=st.none() | st.sampled_from(["x", "y"]),
        name=st.none() | st.sampled_from(["f", "g"]),
    ),
    min_size=1,
    max_size=2,
).map(lambda calls: chunk(tool_calls=calls))
GOOD = st.builds(lambda text: chunk(content=text), TEXT)
ENDS = st.sampled_from(
    [
        DONE,
        chunk("stop"),
        chunk("error"),
        b"data: {\n\n",
        b"data: \xff\n\n",
        b"event: x\n\n",
        usage(),
    ]
)
BYTES = st.binary(max_size=20)


@given(PATHS, st.lists(ODD_CHUNKS | ODD_DELTAS | ODD_CALLS | GOOD | ENDS | BYTES, max_size=12))
def test_whatever_a_miner_sends_the_client_reads_a_legal_stream(
    path: str, events: list[bytes]
) -> None:
    stream = told(asked(path), events)
    # Comments are the miner's own bytes; the rest is ours.
    ours = b"\n\n".join(one for one in stream.split(b"\n\n") if one.startswith(b"event: "))
    if path == MESSAGES:
        check_messages(read_events(ours))
    else:
        check_responses(read_events(ours))
