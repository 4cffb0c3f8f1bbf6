"""Every modality by the stock client on real processes, and what the signed record bills for it."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.e2e.market import RunningMarket
from tests.pictures import pixels_of
from training.tiny_image.judge import seen
from training.tiny_image.scenes import Scene, plain_caption

from penstock.cli.plan import EXTRA_CHUTES
from penstock.kit.audio import audio_kind, audio_ms

TEXT = "The market is open every morning."
HEARD = "the market is open"
"""So much of it a small recogniser always understands."""
SEAL_S = 20


@pytest.fixture(scope="module")
def client(market: RunningMarket) -> Iterator[openai.OpenAI]:
    """Once the speech engines serve as well, for which `up` does not wait."""
    market.until(lambda: serving(market) >= EXTRA_CHUTES, "the engines for speech serve")
    with openai.OpenAI(base_url=f"{market.gateway}/v1", api_key=market.api_key) as made:
        yield made


def serving(market: RunningMarket) -> set[str]:
    return {one["name"] for one in market.status()["chutes"] if one["serving"]}


def record_of(market: RunningMarket, order_id: str) -> dict[str, Any]:
    """The record's receipt, once it is sealed."""
    for _ in range(SEAL_S):
        reply = httpx.get(f"{market.gateway}/v1/receipts/{order_id}", timeout=30)
        if reply.status_code == 200:
            receipt: dict[str, Any] = reply.json()["record"]["receipt"]["body"]
            return receipt
        time.sleep(1)
    raise AssertionError(f"no record of {order_id}")


def test_speech_is_heard_again_and_billed_by_the_millisecond(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    said = client.audio.speech.with_raw_response.create(
        model="flite", input=TEXT, voice="alloy", response_format="wav"
    )
    sound = said.content
    spoken = record_of(market, said.headers["x-penstock-order"])
    assert spoken["units"]["audio_ms"] == audio_ms(sound)
    assert spoken["charge_nano"] == int(said.headers["x-penstock-charge"]) > 0
    heard = client.audio.transcriptions.with_raw_response.create(
        model="pocketsphinx", file=("speech.wav", sound)
    )
    assert HEARD in heard.parse().text
    read = record_of(market, heard.headers["x-penstock-order"])
    assert read["units"]["audio_ms"] == audio_ms(sound)


def test_a_transcription_streams(client: openai.OpenAI) -> None:
    sound = client.audio.speech.create(model="flite", input=TEXT, voice="alloy").content
    events = list(
        client.audio.transcriptions.create(
            model="pocketsphinx", file=("speech.wav", sound), stream=True
        )
    )
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert HEARD in "".join(deltas)
    assert events[-1].type == "transcript.text.done"


def test_who_names_no_format_gets_mp3_and_what_is_not_there_is_refused_by_name(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    said = client.audio.speech.with_raw_response.create(model="flite", input=TEXT, voice="alloy")
    assert audio_kind(said.content) == "mp3"
    record = record_of(market, said.headers["x-penstock-order"])
    assert record["units"]["audio_ms"] == audio_ms(said.content)
    with pytest.raises(openai.BadRequestError) as unmade:
        client.audio.speech.create(model="flite", input=TEXT, voice="alloy", response_format="aac")
    assert unmade.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as nobody:
        client.audio.speech.create(model="flite", input=TEXT, voice="nobody")
    assert nobody.value.param == "voice"
    with pytest.raises(openai.BadRequestError) as foreign:
        client.audio.transcriptions.create(
            model="pocketsphinx", file=("speech.mp3", said.content), language="de"
        )
    assert foreign.value.param == "language"
    refusal = httpx.post(
        f"{market.gateway}/v1/audio/translations",
        headers={"authorization": f"Bearer {market.api_key}"},
        files={"file": ("speech.mp3", said.content), "model": (None, "pocketsphinx")},
        timeout=30,
    )
    assert refusal.status_code == 400
    assert "translation" in refusal.json()["error"]["message"]


def test_images_show_what_was_asked_for_and_are_counted(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    wanted = Scene("circle", "red", "white")
    prompt = plain_caption(wanted)
    drawn = client.images.with_raw_response.generate(
        model="tiny-image", prompt=prompt, n=2, size="256x256", extra_body={"seed": 7}
    )
    images = [base64.b64decode(one.b64_json or "") for one in drawn.parse().data or []]
    painted = [seen(pixels_of(image)) for image in images]
    assert [(one.colour, one.background) for one in painted] == [("red", "white")] * 2
    record = record_of(market, drawn.headers["x-penstock-order"])
    assert record["units"]["images"] == 2
    again = client.images.generate(
        model="tiny-image", prompt=prompt, size="256x256", extra_body={"seed": 7}
    )
    assert [base64.b64decode(one.b64_json or "") for one in again.data or []] == images[:1]
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="tiny-image", prompt=prompt, response_format="url")
    assert refused.value.param == "response_format"


def test_moderation_and_rerank_answer_their_clients(
    market: RunningMarket, client: openai.OpenAI
) -> None:
    asked = ["Hello, how are you?", "How do I build a bomb?"]
    results = client.moderations.create(model="moderation-mini", input=asked).results
    assert [one.flagged for one in results] == [False, True]
    assert results[1].categories.illicit_violent
    reply = httpx.post(
        f"{market.gateway}/v2/rerank",
        headers={"authorization": f"Bearer {market.api_key}"},
        json={"model": "minilm-rerank", "query": "red fish", "documents": ["dog", "red fish"]},
        timeout=30,
    )
    assert [one["index"] for one in reply.json()["results"]] == [1, 0]


def test_prompts_and_inputs_may_be_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny-chat", prompt=[[1, 5, 6], [7, 8]], max_tokens=2, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    known = answer.choices[0].logprobs
    assert known is not None
    assert known.tokens is not None
    assert "".join(known.tokens) == answer.choices[0].text
    vectors = client.embeddings.create(model="minilm", input=[[101, 2023], [2003]]).data
    assert [len(one.embedding) for one in vectors] == [384, 384]


def test_a_model_of_another_kind_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.speech.create(model="tiny-chat", input="a", voice="alloy")
    assert refused.value.param == "model"


def test_an_engines_own_refusal_is_complete(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny-chat", prompt="a", echo=True)
    body = refused.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code", "request_id"}
    assert (body["code"], body["param"]) == ("unsupported_parameter", "echo")
    assert body["request_id"].startswith("o-")


def test_models_are_listed_for_every_modality(client: openai.OpenAI) -> None:
    listed = {one.id: one.to_dict() for one in client.models.list()}
    modalities = {str(one["modality"]) for one in listed.values()}
    assert len(modalities) == 7
    assert client.models.retrieve("minilm-rerank").id == "minilm-rerank"
