"""What a server can do with pictures and sounds, asked of it with tiny requests."""

from dataclasses import dataclass

from penstock.adapters.engines.asker import Asker, Checks, decoded, dig
from penstock.kit.engine import Capability
from penstock.kit.multipart import Part, file_part, form_of, text_part
from penstock.kit.wire.client import Reply

VOICE = "alloy"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
SILENCE_RATE_HZ = 16_000
SILENCE_SAMPLES = 8_000


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """Pictures and sounds, asked of the same server."""

    asker: Asker

    def checks(self) -> Checks:
        """What a server can do by itself."""
        return {
            Capability.IMAGES: self.sees_images,
            Capability.SPEECH: self.sees_speech,
            Capability.TRANSCRIPTION: lambda: self.hears(TRANSCRIPTIONS_PATH),
            Capability.TRANSLATION: lambda: self.hears(TRANSLATIONS_PATH),
        }

    def extras(self, seen: set[Capability]) -> Checks:
        """What it may be able to do besides."""
        extras: Checks = {}
        if Capability.IMAGES in seen and Capability.CHAT not in seen:
            extras[Capability.SEED] = self.sees_image_seed
        if Capability.SPEECH in seen:
            extras[Capability.SPEECH_STREAM] = self.sees_speech_stream
        if Capability.TRANSCRIPTION in seen:
            extras[Capability.TRANSCRIPTION_STREAM] = self.sees_transcript_stream
        return extras

    async def sees_images(self) -> bool:
        body = {"prompt": "water", "n": 1, "response_format": "b64_json"}
        reply = await self.asker.post("/v1/images/generations", body)
        return isinstance(dig(decoded(reply), "data", 0, "b64_json"), str)

    async def sees_image_seed(self) -> bool:
        """The same seed draws the same picture, and another seed another one."""
        one, again, other = [await self.drawn(seed) for seed in (7, 7, 8)]
        return one is not None and one == again and one != other

    async def drawn(self, seed: int) -> object:
        body = {"prompt": "water", "response_format": "b64_json", "seed": seed}
        reply = await self.asker.post("/v1/images/generations", body)
        return dig(decoded(reply), "data", 0, "b64_json")

    async def sees_speech(self) -> bool:
        reply = await self.asker.post(SPEECH_PATH, {"input": "Hello", "voice": VOICE})
        kind = reply.header("content-type")
        is_sound = kind.startswith("audio/") or kind == "application/octet-stream"
        return reply.status == 200 and bool(reply.body) and is_sound

    async def sees_speech_stream(self) -> bool:
        body = {"input": "Hello", "voice": VOICE, "stream_format": "sse"}
        reply = await self.asker.post(SPEECH_PATH, body)
        return reply.status == 200 and b"speech.audio.done" in reply.body

    async def hears(self, path: str) -> bool:
        return isinstance(dig(decoded(await self._upload(path)), "text"), str)

    async def sees_transcript_stream(self) -> bool:
        reply = await self._upload(TRANSCRIPTIONS_PATH, text_part("stream", "true"))
        return reply.status == 200 and b"transcript.text.done" in reply.body

    async def _upload(self, path: str, *parts: Part) -> Reply:
        """Half a second of silence."""
        upload = file_part("file", "silence.wav", silence(), content_type="audio/wav")
        form = form_of([upload, text_part("model", self.asker.model), *parts])
        headers = (("content-type", form.content_type()),)
        return await self.asker.send(path, form.body(), headers=headers)


def silence() -> bytes:
    """A WAV: half a second at 16 kHz, which every recogniser takes."""
    size = SILENCE_SAMPLES * 2
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt "
    shape = (16, 1 | 1 << 16, SILENCE_RATE_HZ, 2 * SILENCE_RATE_HZ, 2 | 16 << 16)
    fields = b"".join(value.to_bytes(4, "little") for value in shape)
    return head + fields + b"data" + size.to_bytes(4, "little") + bytes(size)
