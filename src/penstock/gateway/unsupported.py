"""Paths that OpenAI's and Anthropic's clients know and that are not served: 501, not a riddle.

A gateway keeps nothing of its callers but files and batches, so whatever else stores, trains or runs
for long on their behalf is not here. A family that is served already is left alone, so that a wrong
method there is told the right ones.
"""

from collections.abc import Callable

from penstock.gateway.errors import EndpointUnsupported
from penstock.kit.wire.http import Handler, Request, Response
from penstock.kit.wire.routes import Routes

METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")

FAMILIES = (
    *("assistants", "threads", "vector_stores", "fine_tuning", "fine-tunes", "uploads"),
    *("realtime", "videos", "containers", "evals", "conversations", "organization", "projects"),
    *("chatkit", "skills", "agents", "sessions", "environments", "vaults", "memory_stores"),
    *("files", "batches", "engines", "edits", "answers", "classifications", "search", "complete"),
    *("live", "safety", "decisions", "content_provenance_checks", "webhook_endpoints"),
    *("webhook_event_types", "organizations", "user_profiles", "tunnels", "deployments"),
    *("deployment_runs", "dreams"),
)
"""First segments behind `/v1`; everything below them is unsupported too."""

SINGLES = (
    "/v1/chat/completions/{id...}",
    "/v1/responses/{id...}",
    "/v1/messages/batches",
    "/v1/messages/batches/{id...}",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/audio/voices",
    "/v1/audio/voices/{id...}",
    "/v1/audio/voice_consents",
    "/v1/audio/voice_consents/{id...}",
)
"""Paths beside others that are served."""


def add_unsupported(routes: Routes, *, guard: Callable[[Handler], Handler]) -> None:
    """Answer 501 at all of these, save where something is served already. `guard` makes answers of
    refusals.
    """
    handler = guard(_unsupported)
    families = [path for name in FAMILIES if not routes.knows(path := f"/v1/{name}")]
    for pattern in (*families, *(f"{path}/{{rest...}}" for path in families), *SINGLES):
        for method in METHODS:
            try:
                routes.add(method, pattern, handler)
            except ValueError:
                continue  # somebody serves it


async def _unsupported(request: Request) -> Response:
    raise EndpointUnsupported(path=request.path)
