"""Chat messages, put together turn by turn from a dialect that orders them differently.

Chat templates are strict: roles alternate, tool results follow the calls at once and hold text
only. So neighbours of one role become one message, and what a tool has shown besides text follows
the results as the user's.
"""

from penstock.gateway.dialects.chat_request import Fields


class Conversation:
    """Say, think, call and answer in the dialect's order; `messages()` gives chat's."""

    __slots__ = ("_messages", "_shown", "_thoughts")

    def __init__(self) -> None:
        self._messages: list[Fields] = []
        self._shown: list[Fields] = []
        self._thoughts: list[str] = []

    def say(self, role: str, parts: list[Fields]) -> None:
        """Content of a system, user or assistant turn; nothing if there are no parts."""
        if parts:
            self._turn(role)["content"].extend(parts)

    def think(self, text: str) -> None:
        """Reasoning that belongs to the assistant's next words or calls."""
        if text:
            self._thoughts.append(text)

    def call(self, call_id: str, *, name: str, arguments: str) -> None:
        """A call of a function by the assistant."""
        function = {"name": name, "arguments": arguments}
        calls = self._turn("assistant").setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, *, text: str, shown: list[Fields]) -> None:
        """What a function gave back. `shown` are its parts that are not text."""
        self._thoughts.clear()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        self._shown += shown

    def ends_with_words(self) -> bool:
        """Is the last turn the assistant's own text, to be continued?"""
        if not self._messages or self._shown:
            return False
        last = self._messages[-1]
        return last["role"] == "assistant" and "tool_calls" not in last and bool(last["content"])

    def messages(self) -> list[Fields]:
        """The chat messages. To be asked for once, at the end."""
        self._show()
        for message in self._messages:
            content = message["content"]
            if isinstance(content, list):
                message["content"] = _plain(content)
            if message["content"] == "" and "tool_calls" in message:
                message["content"] = None
        return self._messages

    def _turn(self, role: str) -> Fields:
        self._show()
        last = self._messages[-1] if self._messages else None
        if last is None or last["role"] != role:
            last = {"role": role, "content": []}
            self._messages.append(last)
        if self._thoughts:
            if role == "assistant":
                known = last.get("reasoning_content")
                last["reasoning_content"] = "\n".join(
                    [known, *self._thoughts] if known else self._thoughts
                )
            self._thoughts.clear()
        return last

    def _show(self) -> None:
        if self._shown:
            self._messages.append({"role": "user", "content": self._shown})
            self._shown = []


def _plain(parts: list[Fields]) -> str | list[Fields]:
    """Text alone is one string: templates of text models take no lists."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
