"""Engine streams in one dialect: the chute's model name, usage only where asked for, one ending.

Each data event of the engine gives at most one data event to the client, so that what is counted
does not depend on how the network cut the bytes. Ids, order and unknown fields are kept. Whole
answers are in answers.py.
"""

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import msgspec

from penstock.kit.audio import audio_kind, audio_ms, pcm_ms, wav_ms
from penstock.kit.engine import Capability
from penstock.kit.sse import EventSplitter, event_data
from penstock.miner.paths import COMPLETIONS_PATH
from penstock.miner.rewrite import Answers, Prepared, answers_asked
from penstock.miner.stencil import Run, Stencil, Told, learn

DONE = b"data: [DONE]\n\n"
CHAT_ID, COMPLETION_ID = "chatcmpl-", "cmpl-"
COUNT_MAX = 2**53 - 1
AUDIO_HEAD_BYTES = 4_096
AUDIO_BYTES_MAX = 64 << 20
REJOIN_BYTES_MAX = 4_096
"""A piece of an event that is no longer than this is put before the next read's bytes."""
LESSONS_MAX = 8
"""A stream whose events are of many kinds is not worth a stencil."""
_DONE_WORD = b"[DONE]"
_NULL = b"null"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Counts:
    """What the engine said of the whole request so far. `cached` is part of `prompt`."""

    prompt: int
    cached: int
    completion: int
    images: int = 0
    audio_ms: int = 0


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
class Sound:
    """Spoken audio as it comes, base64 piece by piece; only its length is wanted.

    A WAV's length follows from its head, raw PCM's from its size; other formats must be read whole.
    """

    size: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _is_compressed: bool = False

    def hear(self, audio: object) -> None:
        """The next piece; what is no base64 is no sound."""
        try:
            piece = b64decode(audio, validate=True) if isinstance(audio, str) else b""
        except (NotBase64, ValueError):
            return
        self.size += len(piece)
        room = AUDIO_BYTES_MAX if self._is_compressed else AUDIO_HEAD_BYTES
        self._head += piece[: max(room - len(self._head), 0)]
        self._is_compressed = audio_kind(bytes(self._head[:16])) not in {"", "wav"}

    def length_ms(self, *, is_pcm: bool, is_end: bool) -> int:
        """Milliseconds so far; of a compressed format only at the end."""
        if self._is_compressed:
            return audio_ms(bytes(self._head)) if is_end else 0
        head = bytes(self._head)
        if audio_kind(head) == "wav":
            return wav_ms(head, size=self.size)
        return pcm_ms(self.size) if is_pcm else 0


@dataclass(slots=True)
class StreamReader:
    """Engine bytes in, steps out. Bounded by the splitter: raises kit's EventTooLarge."""

    chute_name: str
    prepared: Prepared
    _splitter: EventSplitter
    finished: bool = False
    """The engine said the end: a finish reason, an event that says so, or `[DONE]`."""
    _offsets: dict[int, int] = field(default_factory=dict)
    _sound: Sound = field(default_factory=Sound)
    _by_choice: dict[int, Counts] = field(default_factory=dict)
    _answers: Answers | None = None
    _stencil: Stencil | None = None
    _lessons: int = 0

    @classmethod
    def of(cls, chute_name: str, prepared: Prepared) -> "StreamReader":
        """A reader at the start of an answer."""
        return cls(chute_name=chute_name, prepared=prepared, _splitter=EventSplitter())

    def feed(self, data: bytes) -> list[Step | Run]:
        """What these bytes complete; nothing that comes after the end counts."""
        splitter, steps = self._splitter, list[Step | Run]()
        if 0 < splitter.pending <= REJOIN_BYTES_MAX:
            data = splitter.finish() + data
        start = 0
        while start < len(data):
            if self._stencil is not None and not splitter.pending:
                run, start = self._stencil.run(data, start)
                if run is not None:
                    steps.append(run)
                    continue
            end = data.find(b"\n\n", start) + 2
            part = data[start : end if end > 1 else len(data)]
            start += len(part)
            for event in splitter.feed(part):
                self._read(event, steps)
        return steps

    def _read(self, event: bytes, steps: list[Step | Run]) -> None:
        payload = event_data(event)
        if payload == _DONE_WORD:
            self.finished = True
        elif payload and payload != _NULL:  # llama.cpp opens a batch of prompts with a null
            steps.append(self._step(payload, event))

    def _step(self, payload: bytes, event: bytes) -> Step:
        try:
            fields = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Step(failed=True)
        if not isinstance(fields, dict) or "error" in fields:
            return Step(failed=True)
        if "choices" not in fields and isinstance(fields.get("type"), str):
            return self._typed(fields)
        choices = [one for one in _list(fields.get("choices")) if isinstance(one, dict)]
        if any(choice.get("finish_reason") for choice in choices):
            self.finished = True
        counts = self._counted(fields, choices)
        is_usage_event = not choices and fields.get("usage") is not None
        if is_usage_event and not self.prepared.shows_usage:
            return Step(counts=counts)
        if self.prepared.path == COMPLETIONS_PATH:
            for choice in choices:
                self._offset(choice)
        told = self._told(fields, choices)
        data = b"data: %b\n\n" % _encode(self._shown(fields, is_usage_event=is_usage_event))
        if told is not None and self._lessons < LESSONS_MAX:
            self._lessons += 1
            self._stencil = learn(event, replace(told, shown=data))
        return Step(
            data=data, counts=counts, has_content=any(_has_content(choice) for choice in choices)
        )

    def _told(self, fields: dict[str, Any], choices: Sequence[Mapping[str, Any]]) -> Told | None:
        """What a stencil is learned from: one choice of one answer, with text and nothing else new."""
        if len(choices) != 1 or choices[0].get("finish_reason") or choices[0].get("logprobs"):
            return None
        is_completion = self.prepared.path == COMPLETIONS_PATH
        place: object = choices[0] if is_completion else choices[0].get("delta")
        key = "text" if is_completion else "content"
        text = place.get(key) if isinstance(place, dict) else None
        if not isinstance(text, str) or not text or (is_completion and self._asks_logprobs):
            return None
        fields_told = [name for name in ("usage", "timings") if fields.get(name) is not None]
        self._answers = self._answers or answers_asked(self.prepared.asked)
        if len(fields_told) > 1 or self._answers.total > 1:
            return None
        return Told(b"", key, text, "".join(fields_told))

    @property
    def _asks_logprobs(self) -> bool:
        return self.prepared.asked.get("logprobs") is not None

    def _counted(
        self, fields: dict[str, Any], choices: Sequence[Mapping[str, Any]]
    ) -> Counts | None:
        """The counts of all choices so far. llama.cpp tells each choice's own, in `timings` and in a
        `usage` of its own; without the sum, one of them would be billed and the others be free.
        """
        counts = read_counts(fields)
        if counts is None or not isinstance(fields.get("timings"), dict):
            return counts
        answers = self._answers = self._answers or answers_asked(self.prepared.asked)
        for choice in choices:
            index = choice.get("index")
            if isinstance(index, int) and 0 <= index < answers.total:
                self._by_choice[index] = counts
        if len(self._by_choice) > 1:
            counts = all_choices(self._by_choice, each=answers.each)
            if isinstance(fields.get("usage"), dict):
                fields["usage"] = as_usage(counts)
        return counts

    def _typed(self, fields: dict[str, Any]) -> Step:
        """An event of audio's streams, which say by their `type` what they are."""
        kind: str = fields["type"]
        is_end = kind.endswith((".done", ".completed"))
        self.finished = self.finished or is_end
        counts = read_counts(fields)
        length_ms = 0
        if self.prepared.kind is Capability.SPEECH:
            self._sound.hear(fields.get("audio"))
            length_ms = self._sound.length_ms(
                is_pcm=self.prepared.asked.get("response_format") == "pcm", is_end=is_end
            )
        elif is_end:
            length_ms = heard_ms(fields, self.prepared.upload_ms)
        if length_ms:
            told = counts or Counts(0, 0, 0)
            counts = Counts(told.prompt, told.cached, told.completion, audio_ms=length_ms)
        return Step(
            data=b"data: %b\n\n" % _encode(fields),
            counts=counts,
            has_content=kind.endswith(".delta"),
        )

    def _offset(self, choice: dict[str, Any]) -> None:
        """Legacy log-probabilities name each token's place in the text, over all events."""
        index = choice.get("index")
        place = self._offsets.get(index, 0) if isinstance(index, int) else 0
        choice["logprobs"] = legacy_logprobs(choice.get("logprobs"), offset=place)
        text = choice.get("text")
        if isinstance(index, int) and isinstance(text, str):
            self._offsets[index] = place + len(text)

    def _shown(self, fields: dict[str, Any], *, is_usage_event: bool) -> dict[str, Any]:
        if "model" in fields:
            fields["model"] = self.chute_name
        if self.prepared.path == COMPLETIONS_PATH:
            name_completion(fields)
        if not is_usage_event and (
            not self.prepared.shows_usage or "usage" in self.prepared.hidden
        ):
            fields.pop("usage", None)
        if "timings" in self.prepared.hidden:
            fields.pop("timings", None)
        return fields


def name_completion(fields: dict[str, Any]) -> None:
    """A completion's id begins as OpenAI's do; llama.cpp calls every answer a chat completion."""
    answer_id = fields.get("id")
    if isinstance(answer_id, str) and answer_id.startswith(CHAT_ID):
        fields["id"] = COMPLETION_ID + answer_id.removeprefix(CHAT_ID)


def legacy_logprobs(value: object, *, offset: int) -> object:
    """Log-probabilities of a completion in the legacy arrays; llama.cpp gives chat's shape there."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return value
    items = [item for item in content if isinstance(item, dict)]
    tokens = [str(item.get("token", "")) for item in items]
    places = []
    for token in tokens:
        places.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [item.get("logprob") for item in items],
        "top_logprobs": [
            {
                str(top.get("token", "")): top.get("logprob")
                for top in _list(item.get("top_logprobs"))
                if isinstance(top, dict)
            }
            for item in items
        ],
        "text_offset": places,
    }


def read_counts(fields: Mapping[str, Any]) -> Counts | None:
    """Counts from `usage` (all dialects) or from llama.cpp's `timings`; None where neither is.

    llama.cpp counts the prompt's cached part apart (`cache_n`) from what it worked on (`prompt_n`).
    """
    usage = fields.get("usage")
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
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


def run_counts(run: Run, last: int) -> Counts | None:
    """The counts that the event `last` of a run told."""
    if not run.counts:
        return None
    return read_counts({run.counts_field: _decode(run.counts[last])})


def all_choices(by_choice: Mapping[int, Counts], *, each: int) -> Counts:
    """The sum. Of the choices of one prompt (`each`), only the first's prompt counts: the others
    found it in the cache.
    """
    prompts = {index // each: by_choice[index] for index in sorted(by_choice, reverse=True)}
    return Counts(
        prompt=sum(counts.prompt for counts in prompts.values()),
        cached=sum(counts.cached for counts in prompts.values()),
        completion=sum(counts.completion for counts in by_choice.values()),
    )


def as_usage(counts: Counts) -> dict[str, Any]:
    """Counts as the clients know them."""
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }


def whole_choices(fields: Mapping[str, Any]) -> Counts | None:
    """The counts of a whole answer of llama.cpp with several choices, of which its `usage` has only
    the first's. Each further one has as many tokens as it has log-probabilities.
    """
    counts = read_counts(fields)
    if counts is None:
        return None
    lengths = []
    for choice in _list(fields.get("choices")):
        told = choice.get("logprobs") if isinstance(choice, dict) else None
        lengths.append(len(_list(told.get("content"))) if isinstance(told, dict) else 0)
    return replace(counts, completion=counts.completion + sum(lengths[1:]))


def heard_ms(fields: Mapping[str, Any], upload_ms: int) -> int:
    """How long the heard audio was: the engine's `duration`, else what the upload's own head says,
    else the engine's whole seconds.
    """
    usage = fields.get("usage")
    seconds = usage.get("seconds") if isinstance(usage, dict) else None
    return _as_ms(fields.get("duration")) or upload_ms or _as_ms(seconds)


def _as_ms(seconds: object) -> int:
    try:
        value = float(seconds) if isinstance(seconds, (int, float, str)) else 0.0
    except ValueError:
        return 0
    # 2.007 s times 1000 is a little more than 2007 as a float.
    return ceil(round(value * 1_000, 6)) if 0 < value < COUNT_MAX / 1_000 else 0


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
