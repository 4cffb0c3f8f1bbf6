"""Every kind of question through a miner and its echo engine: answered, metered, signed for."""

import base64
from typing import Any

import msgspec
import pytest
from tests.makers import GATEWAY
from tests.stations.miner.answer import Answer
from tests.stations.miner.world import World, playing

from penstock.adapters.engines.echo_media import heard_text
from penstock.adapters.engines.echo_words import text_of
from penstock.gateway import openapi_shapes as shapes
from penstock.kit.audio import audio_ms
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.spec.keys import sign
from penstock.spec.receipts import Outcome
from penstock.spec.units import Units

CEILINGS = {"completion_max": 0, "charge_max": 10**12}
RERANK = {"query": "a cat", "documents": ["a dog", {"text": "the cat a"}, "b"], "model": "x"}


async def ask(world: World, path: str, body: bytes | dict[str, Any], **changes: Any) -> Answer:
    """One order at a path, with room for what it may bring."""
    data = body if isinstance(body, bytes) else msgspec.json.encode({"model": "tiny-chat", **body})
    order = world.order(data, path=path, **{"stream": False, **CEILINGS, **changes})
    return await world.post(sign("order", order, GATEWAY), data, path=path)


def billed(answer: Answer) -> Units:
    assert answer.receipt.outcome is Outcome.COMPLETE
    return answer.receipt.units


def as_shape(answer: Answer, shape: type[Any]) -> Any:
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=shape)


def upload(data: bytes, **texts: str) -> bytes:
    named = [text_part(name, value) for name, value in texts.items()]
    sound = file_part("file", "speech.wav", data, content_type="audio/wav")
    return form_of([sound, text_part("model", "tiny-chat"), *named]).body()


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_back_best_first_at_every_path(path: str) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await ask(world, path, {**RERANK, "top_n": 2, "return_documents": True})
        ranked = as_shape(answer, shapes.RerankAnswer)
        assert [one.index for one in ranked.results] == [1, 0]
        assert ranked.results[0].document == {"text": "the cat a"}
        assert ranked.model == "tiny-chat"
        assert billed(answer).prompt == 8

    playing(scenario)


def test_images_are_counted_and_held_to_the_order() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"prompt": "a cat", "n": 3, "size": "32x16"}
        answer = await ask(world, "/v1/images/generations", body, images_max=2)
        images = as_shape(answer, shapes.ImagesAnswer)
        assert len(images.data) == 3
        assert base64.b64decode(images.data[0].b64_json).startswith(b"\x89PNG")
        assert billed(answer).images == 2

    playing(scenario)


@pytest.mark.parametrize(
    ("wanted", "content_type"),
    [("wav", "audio/wav"), ("pcm", "audio/pcm"), ("mp3", "audio/mpeg")],
)
def test_speech_is_bytes_and_billed_by_how_long_it_plays(wanted: str, content_type: str) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"input": "Good day", "voice": "alloy", "response_format": wanted}
        answer = await ask(world, "/v1/audio/speech", body, audio_ms_max=10_000)
        assert answer.status == 200
        assert answer.headers[b"content-type"] == content_type.encode()
        assert heard_text(answer.body) == "Good day"
        assert billed(answer).audio_ms == audio_ms(answer.body, is_pcm=wanted == "pcm") > 0

    playing(scenario)


@pytest.mark.parametrize("wanted", ["wav", "pcm", "mp3"])
def test_speech_as_events_is_billed_like_speech_in_one_piece(wanted: str) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        asked = {"input": "Good day to you", "voice": "a", "response_format": wanted}
        whole = await ask(world, "/v1/audio/speech", asked, audio_ms_max=10_000)
        body = {**asked, "stream_format": "sse"}
        answer = await ask(world, "/v1/audio/speech", body, stream=True, audio_ms_max=10_000)
        *deltas, done, end = answer.data
        spoken = b"".join(base64.b64decode(one["audio"]) for one in deltas)
        assert (done["type"], end) == ("speech.audio.done", "[DONE]")
        assert spoken == whole.body
        assert billed(answer) == billed(whole)

    playing(scenario)


def test_a_transcription_gives_the_words_back_and_is_billed_by_the_audio() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"input": "Water turns the wheel", "voice": "alloy"}
        speech = await ask(world, "/v1/audio/speech", body, audio_ms_max=10_000)
        length_ms = billed(speech).audio_ms
        path = "/v1/audio/transcriptions"
        plain = await ask(world, path, upload(speech.body), audio_ms_max=10_000)
        assert as_shape(plain, shapes.TranscriptAnswer).text == "Water turns the wheel"
        assert billed(plain).audio_ms == length_ms, "the upload knows it better than whole seconds"
        verbose = upload(speech.body, response_format="verbose_json")
        assert billed(await ask(world, path, verbose, audio_ms_max=10_000)).audio_ms == length_ms
        subtitles = await ask(world, path, upload(speech.body, response_format="vtt"))
        assert subtitles.headers[b"content-type"] == b"text/vtt; charset=utf-8"
        assert b"WEBVTT" in subtitles.body
        text = upload(speech.body, response_format="text")
        said = await ask(world, path, text, audio_ms_max=10_000)
        assert said.body == b"Water turns the wheel\n"
        assert billed(said).audio_ms == length_ms, "from the upload's own head"

    playing(scenario)


def test_a_transcription_comes_in_pieces_where_it_is_wanted_so() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        speech = await ask(world, "/v1/audio/speech", {"input": "one two", "voice": "a"})
        body = upload(speech.body, stream="true")
        path = "/v1/audio/transcriptions"
        answer = await ask(world, path, body, stream=True, audio_ms_max=10_000)
        *deltas, done, end = answer.data
        assert "".join(one["delta"] for one in deltas) == done["text"] == "one two"
        assert end == "[DONE]"
        assert billed(answer).audio_ms == audio_ms(speech.body)

    playing(scenario)


def test_a_translation_is_never_a_stream() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        speech = await ask(world, "/v1/audio/speech", {"input": "guten Tag", "voice": "a"})
        answer = await ask(world, "/v1/audio/translations", upload(speech.body, stream="true"))
        assert as_shape(answer, shapes.TranscriptAnswer).text == "guten Tag"

    playing(scenario)


def test_moderation_and_tokens_have_their_clients_shapes() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await ask(world, "/v1/moderations", {"input": ["hello", "I will kill you"]})
        flags = [one.flagged for one in as_shape(answer, shapes.ModerationAnswer).results]
        assert flags == [False, True]
        answer = await ask(world, "/tokenize", {"prompt": "Hello there", "return_token_strs": True})
        tokens = as_shape(answer, shapes.TokenizeAnswer)
        assert tokens.count == len(tokens.tokens) == 2
        assert tokens.token_strs == ["Hello", " there"]
        assert billed(answer) == Units(0, 0, 0, 0, 0), "counting costs a request at most"
        answer = await ask(world, "/detokenize", {"tokens": tokens.tokens})
        assert as_shape(answer, shapes.DetokenizeAnswer).prompt == text_of(tokens.tokens)
        messages = [{"role": "user", "content": "Hello there"}]
        answer = await ask(world, "/tokenize", {"messages": messages})
        assert as_shape(answer, shapes.TokenizeAnswer).tokens == tokens.tokens

    playing(scenario)


@pytest.mark.parametrize("wanted", ["float", "base64"])
def test_vectors_come_as_they_were_asked_for(wanted: str) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"input": [[1, 2], [3]], "encoding_format": wanted, "dimensions": 8}
        answer = await ask(world, "/v1/embeddings", body)
        vectors = as_shape(answer, shapes.EmbeddingsAnswer)
        assert [isinstance(one.embedding, str) for one in vectors.data] == [wanted == "base64"] * 2
        assert billed(answer).prompt == 3

    playing(scenario)


def test_a_completion_echoes_its_prompt_with_log_probabilities() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"prompt": ["a b", "c"], "echo": True, "logprobs": 1, "max_tokens": 1}
        answer = await ask(world, "/v1/completions", body, completion_max=50)
        choices = as_shape(answer, shapes.CompletionAnswer).choices
        assert [choice.text for choice in choices] == ["a b a", "c c"]
        assert choices[0].logprobs is not None
        assert choices[0].logprobs["token_logprobs"][0] is None
        assert choices[0].logprobs["text_offset"] == [0, 1, 3]
        assert billed(answer).completion == 2

    playing(scenario)


def test_an_engines_refusal_names_the_order_and_has_every_field() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        body = {"input": "x", "voice": "a", "response_format": "opus"}
        answer = await ask(world, "/v1/audio/speech", body)
        assert answer.status == 400
        error = msgspec.json.decode(answer.body, type=shapes.Error).error
        assert (error.code, error.param) == ("unsupported_value", "response_format")
        assert error.request_id == answer.receipt.order_id
        assert billed(answer) == Units(0, 0, 0, 0, 0)

    playing(scenario)


def test_a_form_that_is_none_is_refused_with_a_receipt() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        answer = await ask(world, "/v1/audio/transcriptions", b"nonsense")
        assert (answer.status, answer.error) == (400, "invalid_form")
        assert billed(answer) == Units(0, 0, 0, 0, 0)

    playing(scenario)
