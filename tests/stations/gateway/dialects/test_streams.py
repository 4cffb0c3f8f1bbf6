"""Streams in each dialect where it matters how they go: calls, comments, cuts, errors, bounds."""

import json
from typing import Any

import pytest
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
    stream_of,
    told,
    types,
    usage,
    whole,
)
from tests.stations.gateway.dialects.grammar import check_messages, check_responses

BOTH = pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
RECEIPT = b': penstock-receipt {"body":{}}\n\n'


def blocks(*chunks: bytes, **fields: Any) -> list[Json]:
    return check_messages(read_events(told(asked(MESSAGES, **fields), stream_of(*chunks))))


def stop_of(finish: str, *chunks: bytes, **fields: Any) -> Json:
    events = read_events(told(asked(MESSAGES, **fields), stream_of(*chunks, finish=finish)))
    delta: Json = events[-2]["delta"]
    return delta


def test_messages_tell_their_events_in_anthropics_order() -> None:
    assert types(told(asked(MESSAGES), stream_of(chunk(content="a"), chunk(content="b")))) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_responses_tell_their_events_in_openais_order() -> None:
    assert types(told(asked(RESPONSES), stream_of(chunk(content="a")))) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_call_in_a_response_has_no_content_part() -> None:
    piece = call_piece(0, "{}", call="c", name="f")
    assert types(told(asked(RESPONSES), stream_of(chunk(tool_calls=[piece]))))[2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


def test_reasoning_is_told_as_a_summary_where_one_is_asked_for() -> None:
    said = stream_of(chunk(reasoning_content="hm"))
    assert types(told(asked(RESPONSES), said))[3:7] == [
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
    ]
    assert types(told(asked(RESPONSES, reasoning={"summary": "auto"}), said))[3:7] == [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


@BOTH
def test_comments_pass_verbatim_and_in_place(path: str) -> None:
    by = asked(path)
    assert by.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    by.feed(chunk(content="a"))
    assert by.feed(b": keep-alive\n\n" + RECEIPT) == b": keep-alive\n\n" + RECEIPT
    by.feed(chunk("stop") + usage() + DONE)
    assert by.feed(RECEIPT) == RECEIPT
    assert by.end() == b""


@BOTH
def test_a_comment_inside_an_event_is_not_lost(path: str) -> None:
    by = asked(path)
    assert by.feed(b": note\n" + chunk(content="a")).startswith(b": note\n\nevent: ")


@BOTH
def test_the_stream_is_closed_at_done_and_not_again(path: str) -> None:
    by = asked(path)
    by.feed(chunk(content="a") + chunk("stop") + usage())
    assert by.feed(DONE)
    assert by.feed(chunk(content="late") + DONE) == b""
    assert by.end() == by.error_event({"error": {"message": "late"}}) == b""


@BOTH
def test_a_stream_without_done_ends_well_if_the_engine_said_why_it_stopped(path: str) -> None:
    stream = told(asked(path), [chunk(content="a"), chunk("stop"), usage()])
    assert types(stream)[-1] in {"message_stop", "response.completed"}


@pytest.mark.parametrize(
    "events", [[], [chunk(content="Half")], [chunk(content="Half"), b'data: {"cho']]
)
def test_a_cut_stream_ends_in_an_error(events: list[bytes]) -> None:
    assert read_events(told(asked(MESSAGES), events))[-1]["error"]["type"] == "api_error"
    response = check_responses(read_events(told(asked(RESPONSES), events)))
    assert response["status"] == "failed"
    assert "cut" in response["error"]["message"]
    assert [item["status"] for item in response["output"]] == ["incomplete"] * bool(events)


@BOTH
def test_the_gateways_own_error_ends_the_stream_in_the_dialect(path: str) -> None:
    by = asked(path)
    by.feed(chunk(content="Half"))
    error = {"message": "The miner was lost.", "type": "server_error", "code": "miner_failed"}
    told_ = read_events(by.error_event({"error": error}))
    assert by.end() == b""
    if path == MESSAGES:
        (one,) = told_
        assert one["error"] == {
            "type": "api_error",
            "message": error["message"],
            "code": "miner_failed",
        }
        assert one["request_id"] == "req7"
    else:
        assert [one["type"] for one in told_] == ["error", "response.failed"]
        assert told_[0]["message"] == error["message"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "x", "type": "rate_limit_error"}, "rate_limit_error"),
        ({"message": "x", "type": "server_error", "code": "no_capacity"}, "overloaded_error"),
        ({"message": "x", "type": "insufficient_quota"}, "billing_error"),
        ({"message": "x", "code": 400}, "api_error"),
        ({"message": 5, "type": ["odd"]}, "api_error"),
        ("just text", "api_error"),
        ({}, "api_error"),
    ],
)
def test_an_engines_error_in_mid_stream_keeps_its_kind(error: Any, kind: str) -> None:
    stream = read_events(told(asked(MESSAGES), [chunk(content="a"), event({"error": error}), DONE]))
    assert stream[-1]["type"] == "error"
    assert stream[-1]["error"]["type"] == kind
    assert stream[-1]["error"]["message"]


def test_an_engine_that_finishes_with_an_error_failed() -> None:
    assert read_events(told(asked(MESSAGES), stream_of(finish="error")))[-1]["type"] == "error"


@pytest.mark.parametrize(
    ("finish", "chunks", "reason"),
    [
        ("stop", [chunk(content="a")], "end_turn"),
        ("length", [chunk(content="a")], "max_tokens"),
        ("content_filter", [chunk(content="a")], "refusal"),
        ("stop", [chunk(refusal="no")], "refusal"),
        ("tool_calls", [chunk(tool_calls=[call_piece(0, "{}", call="c", name="f")])], "tool_use"),
        ("stop", [chunk(tool_calls=[call_piece(0, "{}", call="c", name="f")])], "tool_use"),
        ("tool_calls", [chunk(content="a")], "end_turn"),
        ("something_new", [chunk(content="a")], "end_turn"),
    ],
)
def test_each_finish_reason_has_its_stop_reason(
    finish: str, chunks: list[bytes], reason: str
) -> None:
    delta = stop_of(finish, *chunks)
    assert (delta["stop_reason"], delta["stop_sequence"]) == (reason, None)


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop"])
def test_a_stop_sequence_is_named_if_it_is_the_callers(name: str) -> None:
    end = chunk("stop", extra={name: "END"})
    for stops, reason, sequence in ((["END"], "stop_sequence", "END"), (["x"], "end_turn", None)):
        by = asked(MESSAGES, stop_sequences=stops)
        delta = read_events(told(by, [chunk(content="a"), end, DONE]))[-2]["delta"]
        assert (delta["stop_reason"], delta["stop_sequence"]) == (reason, sequence)


def test_parallel_calls_that_alternate_are_told_one_after_the_other() -> None:
    first, second = blocks(
        chunk(tool_calls=[call_piece(0, '{"a"', call="c0", name="f")]),
        chunk(tool_calls=[call_piece(1, '{"b"', call="c1", name="g")]),
        chunk(tool_calls=[call_piece(0, ":1}"), call_piece(1, ":2}")]),
    )
    assert (first["name"], first["joined"]) == ("f", '{"a":1}')
    assert (second["name"], second["joined"]) == ("g", '{"b":2}')


def test_a_call_that_is_whole_makes_room_at_once_for_the_next() -> None:
    by = asked(MESSAGES)
    by.feed(chunk(tool_calls=[call_piece(0, '{"a":1}', call="c0", name="f")]))
    begun = by.feed(chunk(tool_calls=[call_piece(1, '{"b"', call="c1", name="g")]))
    assert types(begun) == ["content_block_stop", "content_block_start", "content_block_delta"]


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    call, text = blocks(
        chunk(tool_calls=[call_piece(0, '{"a":1}', call="c", name="f")]),
        chunk(content="Do"),
        chunk(content="ne."),
    )
    assert call["joined"] == '{"a":1}'
    assert text["joined"] == "Done."


def test_text_amid_a_calls_arguments_waits_for_them() -> None:
    call, text = blocks(
        chunk(tool_calls=[call_piece(0, '{"a"', call="c", name="f")]),
        chunk(content="Do"),
        chunk(tool_calls=[call_piece(0, ":1}")]),
        chunk(content="ne."),
    )
    assert call["joined"] == '{"a":1}'
    assert text["joined"] == "Done."


def test_what_follows_whole_arguments_is_no_part_of_them() -> None:
    late = (
        chunk(tool_calls=[call_piece(0, "{}", call="c", name="f")]),
        chunk(content="Done."),
        chunk(tool_calls=[call_piece(0, "\n")]),
    )
    assert [one["joined"] for one in blocks(*late)] == ["{}", "Done."]
    response = check_responses(read_events(told(asked(RESPONSES), stream_of(*late))))
    assert response["output"][0]["arguments"] == "{}"


def test_calls_are_told_apart_without_an_index() -> None:
    first, second = blocks(
        chunk(tool_calls=[call_piece(None, '{"a"', call="x", name="f")]),
        chunk(tool_calls=[call_piece(None, ":1}")]),
        chunk(tool_calls=[call_piece(None, "{}", call="y", name="g")]),
    )
    assert (first["id"], first["joined"]) == ("x", '{"a":1}')
    assert (second["id"], second["joined"]) == ("y", "{}")


def test_a_new_id_at_an_old_index_is_a_new_call() -> None:
    made = blocks(
        chunk(tool_calls=[call_piece(0, "{}", call="x", name="f")]),
        chunk(tool_calls=[call_piece(0, "{}", call="y", name="f")]),
    )
    assert [one["id"] for one in made] == ["x", "y"]


def test_a_call_begins_when_its_name_is_known_and_gets_an_id_if_it_has_none() -> None:
    by = asked(MESSAGES)
    by.feed(chunk(role="assistant"))
    assert by.feed(chunk(tool_calls=[call_piece(0, '{"a"')])) == b""
    (block,) = check_messages(
        read_events(
            told(
                asked(MESSAGES),
                stream_of(
                    chunk(tool_calls=[call_piece(0, "{}")]),
                    chunk(tool_calls=[call_piece(0, name="f")]),
                ),
            )
        )
    )
    assert (block["name"], block["joined"], block["id"]) == ("f", "{}", "call_req7_0")


def test_a_call_that_never_gets_a_name_is_still_told() -> None:
    (block,) = blocks(chunk(tool_calls=[call_piece(0, "{}", call="c")]))
    assert (block["name"], block["joined"]) == ("", "{}")


def test_only_the_first_of_several_choices_is_told() -> None:
    made = blocks(chunk(content="a"), chunk(index=1, content="b"), chunk("stop", index=1))
    assert [one["joined"] for one in made] == ["a"]


def test_reasoning_stops_where_the_text_begins_and_is_signed() -> None:
    stream = told(asked(MESSAGES), stream_of(chunk(reasoning="hm"), chunk(content="a")))
    deltas = [
        one["delta"]["type"] for one in read_events(stream) if "delta" in one and "index" in one
    ]
    assert deltas == ["thinking_delta", "signature_delta", "text_delta"]


def test_thinking_that_is_to_be_omitted_is_an_empty_block() -> None:
    fields: Any = {"thinking": {"type": "adaptive", "display": "omitted"}}
    first, second = blocks(chunk(reasoning="hm"), chunk(content="a"), **fields)
    assert (first["type"], first["joined"], second["joined"]) == ("thinking", "", "a")
    message = {"role": "assistant", "reasoning": "hm", "content": "a"}
    content = json.loads(asked(MESSAGES, **fields).whole(whole(message)))["content"]
    assert content[0]["thinking"] == ""


def test_a_response_cut_by_the_bound_is_incomplete() -> None:
    for finish, reason in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        events = read_events(told(asked(RESPONSES), stream_of(chunk(content="a"), finish=finish)))
        response = check_responses(events)
        assert events[-1]["type"] == "response.incomplete"
        assert response["incomplete_details"] == {"reason": reason}
        assert response["output"][-1]["status"] == "incomplete"


def test_log_probabilities_come_with_their_text() -> None:
    logprobs = {"content": [{"token": "é", "logprob": -0.5, "top_logprobs": None}]}
    said = chunk(content="é", extra={"logprobs": logprobs})
    events = read_events(told(asked(RESPONSES, top_logprobs=1), stream_of(said, said)))
    wanted = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": []}
    deltas = [one["logprobs"] for one in events if one["type"] == "response.output_text.delta"]
    assert deltas == [[wanted], [wanted]]
    assert check_responses(events)["output"][0]["content"][0]["logprobs"] == [wanted, wanted]
