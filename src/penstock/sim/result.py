"""What a run of the simulation tells."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock.sim.witness import Broken


@dataclass(frozen=True, slots=True)
class Result:
    """One seed's story in numbers. It is good when nothing was broken."""

    seed: int
    hours: float
    trace: str
    """Hex digest of everything that happened."""
    events: int
    virtual_ms: int
    counts: Mapping[str, int]
    outcomes: Mapping[str, int]
    faults: int
    epochs_settled: int
    epochs_audited: int
    checks: int
    """How many times the standing rules were checked."""
    broken: tuple[Broken, ...]

    @property
    def is_good(self) -> bool:
        """Every rule held."""
        return not self.broken

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
