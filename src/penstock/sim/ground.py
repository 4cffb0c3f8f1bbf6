"""What all stations of a world stand on: time, network, bus, disks, keys, chance, and the charter."""

from dataclasses import dataclass, field

from penstock.kit.tasks import Errands
from penstock.sim.bus import BusFaults, MemoryBus
from penstock.sim.cast import Cast
from penstock.sim.disk import MemoryFiles
from penstock.sim.journal import JournalStore
from penstock.sim.keys import Keyring, ToyKey
from penstock.sim.lives import Database
from penstock.sim.loop import VirtualClock, VirtualLoop
from penstock.sim.net import MemoryNetwork
from penstock.sim.seeds import Chance
from penstock.sim.stores_market import MemoryMarketStore
from penstock.sim.trace import Trace
from penstock.sim.witness import Witness
from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Charter, Seat
from penstock.spec.params import LOCAL, Params, params_digest

ORIGIN = "sim.penstock"
PORT = 80
MARKET_URL, LEDGER_URL = f"http://market:{PORT}", f"http://ledger:{PORT}"
DELAY_US = (200, 15_000)
BUS_DELAY_MS_MAX = 2
FILES_BYTES_MAX = 1 << 30
SECRET_BYTES = 32


@dataclass(slots=True)
class Ground:
    """Made once per world by `make_ground`. `database` holds the ledger's and the market's store."""

    cast: Cast
    chance: Chance
    loop: VirtualLoop
    clock: VirtualClock
    network: MemoryNetwork
    bus: MemoryBus
    database: Database
    ledger_store: JournalStore
    market_store: MemoryMarketStore
    keyring: Keyring
    witness: Witness
    trace: Trace
    errands: Errands
    charter: Signed
    params: Params = LOCAL
    files: MemoryFiles = field(default_factory=lambda: MemoryFiles(bytes_max=FILES_BYTES_MAX))

    @property
    def now_ms(self) -> int:
        """Virtual time since the start."""
        return self.clock.mono_us() // 1000

    def note(self, who: str, what: str) -> None:
        """Put an event into the trace."""
        self.trace.note(self.clock.mono_us(), who, what)

    def key(self, name: str) -> ToyKey:
        """The key of a host or a person."""
        return self.keyring.key(name)


def make_ground(cast: Cast, chance: Chance, loop: VirtualLoop) -> Ground:
    """An empty world."""
    clock, trace = VirtualClock(loop), Trace()
    witness = Witness(now_ms=lambda: clock.mono_us() // 1000)
    keyring = Keyring(chance.entropy("keys")(SECRET_BYTES))
    faults = BusFaults(
        chance.stream("bus"), duplicate_ppm=cast.duplicate_ppm, delay_ms_max=BUS_DELAY_MS_MAX
    )
    return Ground(
        cast=cast,
        chance=chance,
        loop=loop,
        clock=clock,
        network=MemoryNetwork(
            chance.stream("network"), loop, delay_us=DELAY_US, loss_ppm=cast.loss_ppm
        ),
        bus=MemoryBus(faults=faults),
        database=Database(chance.stream("database")),
        ledger_store=JournalStore(
            lambda one: trace.note(clock.mono_us(), "log", f"{one.seq} {one.entry_id}")
        ),
        market_store=MemoryMarketStore(),
        keyring=keyring,
        witness=witness,
        trace=trace,
        errands=Errands(witness.crashed),
        charter=_charter(cast, keyring, LOCAL),
    )


def _charter(cast: Cast, keyring: Keyring, params: Params) -> Signed:
    operator = keyring.key("operator")
    charter = Charter(
        origin=ORIGIN,
        network=params.network,
        params_digest=params_digest(params),
        operator=operator.identity,
        ledger=keyring.log_key().identity,
        market=keyring.key("market").identity,
        gateways=tuple(keyring.key(name).identity for name in cast.gateways),
        seats=tuple(Seat(keyring.key(name).identity, stake=100) for name in cast.validators),
    )
    return sign("charter", charter, operator)
