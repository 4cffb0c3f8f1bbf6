"""Connections to engines: kept between requests where that does no harm.

A fresh connection costs a request a quarter of its CPU. But llama.cpp promises keep-alive and closes after
a streamed answer or an error all the same, which a POST must not meet; and as long as a connection
rests there it holds one of few threads, which the engine's own health page then waits for. So whatever
says that it is llama.cpp gets a fresh connection each time.
"""

from penstock.kit.ports import Network
from penstock.kit.wire.client import ClientLimits, HttpClient, StreamReply
from penstock.miner.instance import Instance
from penstock.miner.llama_request import LLAMA

KEPT_LINKS = ClientLimits(idle_max=64, idle_ms=2_000)
"""Servers end a connection that rests after 5 s (uvicorn, which vLLM and SGLang run on) or later."""
FRESH_LINKS = ClientLimits(idle_max=0)
_LLAMA_SERVER = "llama.cpp"
_MARKS_MAX = 1_024


class EngineLinks:
    """One per miner; `close` it at the end."""

    def __init__(self, network: Network) -> None:
        self._kept = HttpClient(network, KEPT_LINKS)
        self.fresh = HttpClient(network, FRESH_LINKS)
        self._marked: dict[str, None] = {}

    def of(self, instance: Instance) -> HttpClient:
        """What asks the engine of this instance."""
        engine = instance.engine
        if instance.manifest.engine in LLAMA or engine is None or engine.address in self._marked:
            return self.fresh
        return self._kept

    def saw(self, instance: Instance, reply: StreamReply) -> None:
        """Its engine has answered: what does it call itself?"""
        if instance.engine is None or not reply.header("server").startswith(_LLAMA_SERVER):
            return
        if len(self._marked) >= _MARKS_MAX:
            self._marked.clear()
        self._marked[instance.engine.address] = None

    async def close(self) -> None:
        """Drop what rests."""
        await self._kept.close()
        await self.fresh.close()
