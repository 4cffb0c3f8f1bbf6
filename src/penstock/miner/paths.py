"""The paths that reach an engine, and what it must be able to do there.

Engines have other routes (sleep, reload, cache control) that nobody outside may touch.
"""

from penstock.kit.engine import Capability

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
TOKENIZE_PATH = "/tokenize"
IMAGES_PATH = "/v1/images/generations"
DETOKENIZE_PATH = "/detokenize"

PATHS = {
    CHAT_PATH: Capability.CHAT,
    COMPLETIONS_PATH: Capability.COMPLETIONS,
    EMBEDDINGS_PATH: Capability.EMBEDDINGS,
    RERANK_PATH: Capability.RERANK,
    "/v2/rerank": Capability.RERANK,
    "/rerank": Capability.RERANK,
    IMAGES_PATH: Capability.IMAGES,
    SPEECH_PATH: Capability.SPEECH,
    TRANSCRIPTIONS_PATH: Capability.TRANSCRIPTION,
    TRANSLATIONS_PATH: Capability.TRANSLATION,
    "/v1/moderations": Capability.MODERATION,
    TOKENIZE_PATH: Capability.TOKENIZE,
    DETOKENIZE_PATH: Capability.TOKENIZE,
}
"""What orders may name."""

GENERATION = frozenset({CHAT_PATH, COMPLETIONS_PATH})
FORMS = frozenset({TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH})
