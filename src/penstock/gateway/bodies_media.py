"""Bodies that ask for images or audio, or bring audio along, and how much of it an answer may hold.

Audio is bounded before it is made or read: speech by the characters to be said, a transcription by
the bytes that were sent. Both bounds are far above what people say and recorders keep.
"""

import re
from math import ceil
from typing import Annotated

import msgspec

from penstock.gateway.calls import (
    NO_RAW,
    TRANSCRIPTIONS_PATH,
    Call,
    ModelName,
    Share,
    decoded,
    plain_call,
    shown,
)
from penstock.gateway.errors import BadRequest, UnsupportedValue
from penstock.kit.multipart import BadMultipart, Form, parse_multipart

IMAGES_MAX = 10
IMAGE_PROMPT_CHARS_MAX = 32_000
IMAGE_MODEL = "gpt-image-1"
"""What OpenAI's clients mean when they name no model; an alias can make it any chute."""

SPEECH_CHARS_MAX = 16_384
SPEECH_MS_PER_CHAR = 200
SPEECH_MS_EXTRA = 1_000
"""Room for the silence around a short text."""
STREAM_FORMATS = ("audio", "sse")
SPEECH_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")

TRANSCRIPTION_MS_PER_BYTE = 2
"""4 kbit/s: no recorder makes less of speech."""
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
AUDIO_MS_MAX = 1 << 24
"""4.6 hours: no request makes or brings more."""

SIZE = r"auto|[1-9]\d{1,3}x[1-9]\d{1,3}"
_SIZE = re.compile(SIZE)
_WORDS = {"true": True, "1": True, "false": False, "0": False, "": False}


class ImagesBody(msgspec.Struct, kw_only=True):
    """`POST /v1/images/generations`."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=IMAGE_PROMPT_CHARS_MAX)]
    model: ModelName | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=IMAGES_MAX)] | None = None
    size: Annotated[str, shown(pattern=f"^({SIZE})$")] | None = None
    response_format: Annotated[str, shown(enum=["b64_json"])] | None = None
    stream: Annotated[bool, shown(enum=[False])] | None = None
    provider: msgspec.Raw = NO_RAW


class SpeechBody(msgspec.Struct, kw_only=True):
    """`POST /v1/audio/speech`."""

    model: ModelName
    input: Annotated[str, msgspec.Meta(min_length=1, max_length=SPEECH_CHARS_MAX)]
    response_format: Annotated[str, shown(enum=list(SPEECH_FORMATS))] | None = None
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4)] | None = None
    stream_format: Annotated[str, shown(enum=list(STREAM_FORMATS))] | None = None
    provider: msgspec.Raw = NO_RAW


class TranscriptFields(msgspec.Struct, kw_only=True):
    """The plain fields of a form for a transcription or a translation."""

    model: ModelName
    response_format: str = "json"
    temperature: Share = 0


_images = msgspec.json.Decoder(ImagesBody)
_speech = msgspec.json.Decoder(SpeechBody)


def read_images(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest, UnsupportedValue."""
    asked = decoded(_images, body)
    if asked.response_format not in {None, "b64_json"}:
        raise UnsupportedValue(
            reason="response_format must be b64_json: images come inside the answer, and nothing is "
            "stored here that a URL could lead to.",
            param="response_format",
        )
    if asked.stream:
        raise UnsupportedValue(
            reason="Images come whole. Leave stream out, or set it to false.", param="stream"
        )
    if asked.size is not None and not _SIZE.fullmatch(asked.size):
        raise BadRequest(
            reason="size must be WIDTHxHEIGHT, such as 256x256, or auto.", param="size"
        )
    model = IMAGE_MODEL if asked.model is None else asked.model
    call = plain_call(path, model, body, provider=asked.provider)
    return msgspec.structs.replace(call, images_max=asked.n or 1)


def read_speech(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest, UnsupportedValue."""
    asked = decoded(_speech, body)
    _check_word("response_format", asked.response_format, SPEECH_FORMATS)
    _check_word("stream_format", asked.stream_format, STREAM_FORMATS)
    slowness = max(1 / (asked.speed or 1), 1)
    spoken_ms = ceil(len(asked.input) * SPEECH_MS_PER_CHAR * slowness)
    call = plain_call(path, asked.model, body, provider=asked.provider)
    return msgspec.structs.replace(
        call,
        stream=asked.stream_format == "sse",
        audio_ms_max=min(spoken_ms + SPEECH_MS_EXTRA, AUDIO_MS_MAX),
    )


def read_form(path: str, body: bytes) -> Call:
    """A transcription's or translation's upload. Raises BadRequest, UnsupportedValue."""
    try:
        form = parse_multipart(body)
        texts = form.texts()
    except BadMultipart as error:
        raise BadRequest(
            reason=f"The body is no multipart/form-data: {error.reason}. Send the audio as a form "
            "with the fields file and model.",
            param="file",
        ) from error
    fields = _fields(texts)
    _check_word("response_format", fields.response_format, TRANSCRIPT_FORMATS)
    _check_file(form)
    call = plain_call(path, fields.model, body)
    return msgspec.structs.replace(
        call,
        stream=path == TRANSCRIPTIONS_PATH and _flag("stream", texts.get("stream", "")),
        audio_ms_max=min(len(body) * TRANSCRIPTION_MS_PER_BYTE, AUDIO_MS_MAX),
    )


def _fields(texts: dict[str, str]) -> TranscriptFields:
    try:
        return msgspec.convert(texts, TranscriptFields, strict=False)
    except msgspec.ValidationError as error:
        named = next((name for name in ("model", "temperature") if name in str(error)), None)
        raise BadRequest(reason=f"The form does not fit: {error}.", param=named) from error


def _check_file(form: Form) -> None:
    upload = form.file("file")
    if upload is None or not upload.data:
        raise BadRequest(reason="There is no audio. Upload it in the field file.", param="file")


def _check_word(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise UnsupportedValue(reason=f"{name} must be one of {', '.join(known)}.", param=name)


def _flag(name: str, text: str) -> bool:
    value = _WORDS.get(text.lower())
    if value is None:
        raise BadRequest(reason=f"{name} must be true or false.", param=name)
    return value
