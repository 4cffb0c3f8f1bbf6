"""When all is quiet nothing is held: what every station must have let go of before a world is over."""

from collections.abc import Iterator

from penstock.ledger.publisher import outcome_file
from penstock.sim.ground import Ground
from penstock.sim.miners import MinerHost
from penstock.sim.operator import Operator
from penstock.spec.entries import EntryKind


class Rest:
    """Looks for whatever is still held."""

    def __init__(self, ground: Ground, operator: Operator, miners: dict[str, MinerHost]) -> None:
        self._ground = ground
        self._operator = operator
        self._miners = miners

    def held(self) -> list[str]:
        """What is not at rest, a line each; empty when all is quiet."""
        lines = [*self._of_gateways(), *self._of_miners(), *self._of_operator()]
        return [f"{name}: {count}" for name, count in lines if count]

    def _of_gateways(self) -> Iterator[tuple[str, int]]:
        for name in self._ground.cast.gateways:
            gateway = self._operator.gateways.get(name)
            if gateway is None:
                yield f"{name} is away", 1
                continue
            yield f"{name} holds nano", gateway.leases.held_nano
            yield f"{name} has leases", gateway.leases.count
            yield f"{name} runs requests", gateway.admission.running
            yield f"{name} has requests on their way", len(gateway.passages)
            yield f"{name} sees clients off", len(gateway.closing.leaving)
            yield f"{name} has errands", len(gateway.errands)
            yield f"{name} waits for seals", gateway.sealer.waiting
            yield f"{name} keeps records back", gateway.recorder.waiting
            for chute in gateway.directory.chutes():
                for one in gateway.directory.instances(chute.chute):
                    yield f"{name} counts work at {one.offer.instance}", one.running

    def _of_miners(self) -> Iterator[tuple[str, int]]:
        for name, host in self._miners.items():
            miner = host.miner
            if miner is None:
                yield f"{name} is away", 1
                continue
            yield f"{name} has jobs", len(miner.parts.front.jobs)
            yield f"{name} has claims", len(miner.parts.outbox)
            for instance in miner.parts.fleet.instances.values():
                yield f"{name} holds a slot of {instance.name}", instance.running
            yield f"{name}'s engines run", sum(engine.running for engine in host.engines)

    def _of_operator(self) -> Iterator[tuple[str, int]]:
        ground, store = self._ground, self._ground.ledger_store
        yield "the bus has unacknowledged events", ground.bus.unacked_count
        yield "the books hold money", sum(hold.left_nano > 0 for hold in store.books.holds.values())
        yield "leases are open", sum(hold.is_open for hold in store.books.holds.values())
        market = self._operator.market
        yield "the market keeps words back", 0 if market is None else market.waiting
        log = store.log
        settled = [
            int(one.entry_id.rpartition("/")[2]) for one in log if one.kind is EntryKind.SETTLEMENT
        ]
        newest = max(settled, default=-1)
        late = sum(one.kind is EntryKind.RECORD and one.epoch > newest for one in log)
        yield "records are in epochs that are not settled", late
        published = ground.files.names("epochs/")
        missing = sum(outcome_file(epoch) not in published for epoch in settled)
        yield "settlements are not published", missing
