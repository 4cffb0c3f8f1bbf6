"""The legal order of each dialect's events, as small state machines. They raise AssertionError."""

from typing import Any

from tests.stations.gateway.dialects.chat_streams import Json

DELTAS = {
    "text": {"text_delta"},
    "tool_use": {"input_json_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
}
DELTA_FIELDS = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
}
ENDS = {"response.completed", "response.incomplete", "response.failed"}


def check_messages(events: list[Json]) -> list[Json]:
    """The content blocks, put together from the deltas: each with `text`, its deltas joined."""
    if events[-1]["type"] == "error":
        assert set(events[-1]["error"]) >= {"type", "message"}
        events = events[:-1]
        is_failed = True
    else:
        is_failed = False
        assert [one["type"] for one in events[-2:]] == ["message_delta", "message_stop"]
        assert events[-2]["delta"]["stop_reason"] is not None
        assert events[-2]["usage"]["output_tokens"] >= 0
        events = events[:-2]
        assert events, "a message that ends has begun"
    blocks: list[Json] = []
    is_open = False
    for place, one in enumerate(events):
        match one["type"]:
            case "message_start":
                assert place == 0
                assert one["message"]["content"] == []
                assert one["message"]["stop_reason"] is None
            case "ping":
                assert place == 1
            case "content_block_start":
                assert not is_open
                assert one["index"] == len(blocks)
                blocks.append({**one["content_block"], "joined": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert one["index"] == len(blocks) - 1
                delta = one["delta"]
                assert delta["type"] in DELTAS[blocks[-1]["type"]]
                blocks[-1]["joined"] += delta.get(DELTA_FIELDS.get(delta["type"], ""), "")
            case "content_block_stop":
                assert is_open
                assert one["index"] == len(blocks) - 1
                is_open = False
            case other:
                raise AssertionError(other)
    assert is_failed or not is_open
    return blocks


class ResponseOrder:
    """Takes the events one by one and holds what a client would have."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.text = ""
        self.open_item: Json | None = None
        self.has_part = False
        self.is_said = False
        self.end: Json | None = None

    def take(self, number: int, one: Json) -> None:
        assert self.end is None, "nothing follows the end"
        assert one["sequence_number"] == number
        kind = one["type"]
        if number < 2:
            assert kind == ("response.created", "response.in_progress")[number]
            assert one["response"]["status"] == "in_progress"
        elif kind in ENDS:
            assert kind == "response.failed" or self.open_item is None
            assert one["response"]["status"] == kind.removeprefix("response.")
            self.end = one
        elif kind == "error":
            assert one["message"]
        elif kind == "response.output_item.added":
            self._add(one)
        elif kind == "response.output_item.done":
            self._finish(one)
        else:
            self._inside(kind, one)

    def _add(self, one: Json) -> None:
        assert self.open_item is None
        assert one["output_index"] == len(self.items)
        assert one["item"]["status"] == "in_progress"
        self.open_item = one["item"]
        self.text = ""
        self.has_part = self.is_said = False

    def _finish(self, one: Json) -> None:
        assert self.open_item is not None
        assert self.is_said
        assert not self.has_part
        assert one["item"]["id"] == self.open_item["id"]
        assert item_text(one["item"]) == self.text
        self.items.append(one["item"])
        self.open_item = None

    def _inside(self, kind: str, one: Json) -> None:
        assert self.open_item is not None
        assert one["item_id"] == self.open_item["id"]
        assert one["output_index"] == len(self.items)
        is_call = self.open_item["type"] == "function_call"
        if kind.endswith("part.added"):
            assert not is_call
            assert not self.has_part
            self.has_part = True
        elif kind.endswith("part.done"):
            assert self.has_part
            assert self.is_said
            self.has_part = False
        elif kind.endswith(".delta"):
            assert self.has_part or is_call
            assert not self.is_said
            self.text += one["delta"]
        else:
            assert kind.endswith(".done")
            said = [one[name] for name in ("text", "refusal", "arguments") if name in one]
            assert said == [self.text]
            self.is_said = True


def check_responses(events: list[Json]) -> Json:
    """The Response at the end; the items told one by one must be its output."""
    order = ResponseOrder()
    for number, one in enumerate(events):
        order.take(number, one)
    assert order.end is not None
    response: Json = order.end["response"]
    if response["status"] != "failed":
        assert response["output"] == order.items
    return response


def item_text(item: Json) -> str:
    """The text of an output item, whatever it is."""
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts: list[Any] = item["content"] or item.get("summary", [])
    return "".join(part.get("text", part.get("refusal", "")) for part in parts)
