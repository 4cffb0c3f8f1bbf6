"""The prefix cache of one instance, as the published study has it: whole sessions, by last use.

An entry is a session with the tokens of its latest prompt and answer. When the cache is over its
size the session that was used longest ago goes; the one just served stays, however long it is.
"""

from collections import OrderedDict


class Cache:
    """Finite, by tokens."""

    def __init__(self, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._sessions: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0

    def reusable(self, session: int, prompt: int) -> int:
        """Tokens of this prompt that are here."""
        return min(self._sessions.get(session, 0), prompt)

    def put(self, session: int, tokens: int) -> None:
        """The session was served here and is so long now."""
        sessions = self._sessions
        old = sessions.pop(session, 0)
        tokens = max(tokens, old)
        sessions[session] = tokens
        self._tokens += tokens - old
        while self._tokens > self._tokens_max and len(sessions) > 1:
            _, gone = sessions.popitem(last=False)
            self._tokens -= gone
