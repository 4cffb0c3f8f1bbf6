"""What is asked: varied, within bounds, at random moments, of every chute, and repeatable."""

import random

import msgspec
import pytest

from penstock.kit.audio import wav_ms
from penstock.kit.multipart import parse_multipart
from penstock.spec.messages import Modality
from penstock.validator.peers import Probeable
from penstock.validator.policy import CHAT_PATH, EMBEDDINGS_PATH, Probe, plan_probes, question

CHUTES = (
    Probeable("sha256:a", Modality.CHAT, 256),
    Probeable("sha256:b", Modality.CHAT, 4),
    Probeable("sha256:c", Modality.EMBEDDINGS, 1),
)
OTHERS = {
    Modality.RERANK: ("/v1/rerank", {"model", "query", "documents"}),
    Modality.IMAGES: (
        "/v1/images/generations",
        {"model", "prompt", "n", "size", "response_format"},
    ),
    Modality.SPEECH: ("/v1/audio/speech", {"model", "input", "voice"}),
    Modality.MODERATION: ("/v1/moderations", {"model", "input"}),
}


def plan(seed: int = 1, count: int = 60) -> list[Probe]:
    return plan_probes(random.Random(seed), CHUTES, count=count, span_ms=60_000)


def test_every_chute_is_probed_about_as_often() -> None:
    chutes = [probe.chute for probe in plan()]
    assert [chutes.count(chute.chute) for chute in CHUTES] == [20, 20, 20]
    assert {probe.chute for probe in plan(count=3)} == {chute.chute for chute in CHUTES}


def test_the_moments_are_spread_over_the_span_in_order() -> None:
    moments = [probe.after_ms for probe in plan()]
    assert moments == sorted(moments)
    assert 0 <= moments[0] < 10_000
    assert 50_000 < moments[-1] < 60_000
    assert moments != [probe.after_ms for probe in plan(2)]


def test_one_seed_gives_one_plan() -> None:
    assert plan(3) == plan(3)
    assert [probe.body for probe in plan(3)] != [probe.body for probe in plan(4)]


def test_a_chat_probe_is_what_a_user_would_ask() -> None:
    bodies = [msgspec.json.decode(probe.body) for probe in plan() if probe.path == CHAT_PATH]
    assert all(body["temperature"] == 0 for body in bodies)
    assert all(body["messages"][0]["role"] == "user" for body in bodies)
    for body in bodies:
        assert 1 <= body["max_tokens"] <= (4 if body["model"] == "sha256:b" else 96)
    assert {bool(body.get("stream")) for body in bodies} == {True, False}
    assert {bool(body.get("stream_options")) for body in bodies if body.get("stream")} == {
        True,
        False,
    }
    assert len({body["messages"][0]["content"] for body in bodies}) > 30


def test_an_embeddings_probe_sends_texts() -> None:
    probes = [probe for probe in plan() if probe.path == EMBEDDINGS_PATH]
    bodies = [msgspec.json.decode(probe.body) for probe in probes]
    assert {len(body["input"]) for body in bodies} == {1, 2, 3, 4}
    assert not any(probe.is_stream for probe in probes)


@pytest.mark.parametrize("modality", OTHERS)
def test_the_other_kinds_are_asked_in_their_own_words(modality: Modality) -> None:
    chutes = (Probeable("sha256:x", modality, 1),)
    (probe,) = plan_probes(random.Random(1), chutes, count=1, span_ms=1_000)
    body = msgspec.json.decode(probe.body)
    assert (probe.path, set(body)) == OTHERS[modality]
    assert body["model"] == "sha256:x"
    assert probe.content_type == "application/json"


def test_a_transcription_is_asked_for_a_second_of_sound() -> None:
    chutes = (Probeable("sha256:x", Modality.TRANSCRIPTION, 1),)
    (probe,) = plan_probes(random.Random(1), chutes, count=1, span_ms=1_000)
    form = parse_multipart(probe.body)
    sound = form.file("file")
    assert sound is not None
    assert wav_ms(sound.data) == 1_000
    assert form.texts()["model"] == "sha256:x"
    assert probe.content_type == form.content_type()


def test_the_stream_flag_of_a_probe_is_that_of_its_body() -> None:
    for probe in plan():
        assert probe.is_stream is bool(msgspec.json.decode(probe.body).get("stream"))


def test_questions_are_of_several_kinds() -> None:
    rng = random.Random(1)
    asked = [question(rng) for _ in range(200)]
    assert any("plus" in one for one in asked)
    assert any(one.startswith("Repeat these words") for one in asked)
    assert any("capital" in one for one in asked)
    assert len(set(asked)) > 100


def test_nothing_is_asked_when_nobody_serves() -> None:
    assert plan_probes(random.Random(1), (), count=5, span_ms=1_000) == []
    assert plan(count=0) == []
