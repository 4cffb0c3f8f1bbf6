"""Validators as a world runs them: the production validator with a small account of its own."""

import asyncio

from penstock.client.sources import HttpSource
from penstock.kit.keys import verify_raw
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.sim.disk import MemoryFiles
from penstock.sim.ground import FILES_BYTES_MAX, LEDGER_URL, MARKET_URL, PORT, Ground
from penstock.sim.lives import Life, LifeFiles
from penstock.sim.operator import RETRY_MS, serving
from penstock.validator.config import Bounds, Deadlines
from penstock.validator.errors import PeerDown, PeerRefused
from penstock.validator.peers import Facts, Market
from penstock.validator.routes import build_routes
from penstock.validator.service import Urls, Validator

DEADLINES = Deadlines(peer_ms=3_000, probe_ms=20_000)
PROBES_PER_EPOCH = 6


class ValidatorHost:
    """One validator's machine: what survives its lives, and what runs now."""

    def __init__(self, ground: Ground, name: str, *, api_key: str) -> None:
        self.ground = ground
        self.name = name
        self.probes_per_epoch = PROBES_PER_EPOCH
        """Read when a life begins; 0 lets the world come to rest."""
        self.files = MemoryFiles(bytes_max=FILES_BYTES_MAX)
        self.validator: Validator | None = None
        self._api_key = api_key

    async def run(self, life: Life) -> None:
        """One life of the validator."""
        ground, name = self.ground, self.name
        http = HttpClient(ground.network.at(name))
        try:
            validator = self._build(life, await self._find_market(http), http)
            self.validator = validator
            async with serving(ground, life, build_routes(validator)) as server, Scope() as scope:
                validator.start(scope)
                await life.stop.wait()
                await server.close(DEADLINES.drain_ms)
                scope.cancel()
        finally:
            self.validator = None
            await http.close()

    def _build(self, life: Life, facts: Facts, http: HttpClient) -> Validator:
        ground, gateways = self.ground, self.ground.cast.gateways
        place = ground.cast.validators.index(self.name)
        gateway = gateways[place % len(gateways)]
        return Validator(
            name=self.name,
            clock=ground.clock,
            http=http,
            key=ground.key(self.name),
            verify=ground.keyring.verify,
            verify_raw=verify_raw,
            rng=ground.chance.stream(f"{self.name}/{life.number}"),
            files=LifeFiles(self.files, life),
            source=HttpSource(http, LEDGER_URL),
            facts=facts,
            urls=Urls(f"http://{gateway}:{PORT}", MARKET_URL, LEDGER_URL),
            api_key=self._api_key,
            deadlines=DEADLINES,
            bounds=Bounds(probes_per_epoch_max=self.probes_per_epoch),
        )

    async def _find_market(self, http: HttpClient) -> Facts:
        """Ask the market until it answers. Raises StartRefused."""
        market = Market(http, MARKET_URL, DEADLINES.peer_ms)
        operator = self.ground.key("operator").identity
        while True:
            try:
                return await market.facts(operator=operator, verify=self.ground.keyring.verify)
            except (PeerDown, PeerRefused):
                await asyncio.sleep(RETRY_MS / 1000)
