"""Engine answers in one dialect: the chute's model name, usage only where asked for, one ending.

Each data event of the engine gives at most one data event to the client, so that what is counted
does not depend on how the network cut the bytes. Ids, order and unknown fields are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.sse import EventSplitter, event_data
from penstock.miner.rewrite import Prepared

DONE = b"data: [DONE]\n\n"
COUNT_MAX = 2**53 - 1
_DONE_WORD = b"[DONE]"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Counts:
    """What the engine said of the whole request so far. `cached` is part of `prompt`."""

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True, slots=True)
class Step:
    """One engine event, understood. `data` is what the client gets, b"" for nothing.

    `has_content` marks an event that carries part of the answer; `failed` an error of the engine.
    """

    data: bytes = b""
    counts: Counts | None = None
    has_content: bool = False
    failed: bool = False


@dataclass(slots=True)
class StreamReader:
    """Engine bytes in, steps out. Bounded by the splitter: raises kit's EventTooLarge."""

    chute_name: str
    prepared: Prepared
    _splitter: EventSplitter
    finished: bool = False
    """The engine said the end: a finish reason or `[DONE]`."""

    @classmethod
    def of(cls, chute_name: str, prepared: Prepared) -> "StreamReader":
        """A reader at the start of an answer."""
        return cls(chute_name=chute_name, prepared=prepared, _splitter=EventSplitter())

    def feed(self, data: bytes) -> list[Step]:
        """The steps that these bytes complete; nothing that comes after the end counts."""
        steps: list[Step] = []
        for event in self._splitter.feed(data):
            payload = event_data(event)
            if payload == _DONE_WORD:
                self.finished = True
            elif payload:
                steps.append(self._step(payload))
        return steps

    def _step(self, payload: bytes) -> Step:
        try:
            fields = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Step(failed=True)
        if not isinstance(fields, dict):
            return Step(failed=True)
        if "error" in fields:
            return Step(failed=True)
        choices = [one for one in _list(fields.get("choices")) if isinstance(one, dict)]
        if any(choice.get("finish_reason") for choice in choices):
            self.finished = True
        counts = read_counts(fields)
        is_usage_event = not choices and fields.get("usage") is not None
        if is_usage_event and not self.prepared.shows_usage:
            return Step(counts=counts)
        shown = self._shown(fields, is_usage_event=is_usage_event)
        return Step(
            data=b"data: %b\n\n" % _encode(shown),
            counts=counts,
            has_content=any(_has_content(choice) for choice in choices),
        )

    def _shown(self, fields: dict[str, Any], *, is_usage_event: bool) -> dict[str, Any]:
        if "model" in fields:
            fields["model"] = self.chute_name
        if not is_usage_event and (
            not self.prepared.shows_usage or "usage" in self.prepared.hidden
        ):
            fields.pop("usage", None)
        if "timings" in self.prepared.hidden:
            fields.pop("timings", None)
        return fields


def normalise_whole(body: bytes, chute_name: str) -> tuple[bytes, Counts | None] | None:
    """A whole answer under the chute's name, with the engine's counts; None if it is no answer."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(fields, dict) or "error" in fields:
        return None
    if "model" in fields:
        fields["model"] = chute_name
    return _encode(fields), read_counts(fields)


def read_counts(fields: Mapping[str, Any]) -> Counts | None:
    """Counts from `usage` (all dialects) or from llama.cpp's `timings`; None where neither is.

    llama.cpp counts the prompt's cached part apart (`cache_n`) from what it worked on (`prompt_n`).
    """
    usage = fields.get("usage")
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        prompt = _count(usage.get("prompt_tokens"))
        completion = _count(usage.get("completion_tokens"))
        return Counts(prompt=prompt, cached=min(_count(cached), prompt), completion=completion)
    timings = fields.get("timings")
    if isinstance(timings, dict):
        cached = _count(timings.get("cache_n"))
        return Counts(
            prompt=_count(timings.get("prompt_n")) + cached,
            cached=cached,
            completion=_count(timings.get("predicted_n")),
        )
    return None


def _has_content(choice: Mapping[str, Any]) -> bool:
    """Does a choice carry any of the answer? A first event with only a role does not."""
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    return any(bool(value) for name, value in delta.items() if name != "role")


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
