"""What the `model` field may say: names, pins, aliases, suffixes, and a list of them in order.

`a/b` is the newest chute of that name, `a/b@sha256:...` and `sha256:...` that very one. A suffix says
by what to choose (OpenRouter's names): `:floor` by price, `:nitro` and `:throughput` by speed,
`:latency` by time to the first byte. `x, y` asks y when x cannot serve. Aliases are the operator's:
a name of his config that stands for such a string.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.gateway.errors import BadRequest
from penstock.gateway.wants import Sort

TARGETS_MAX = 8
"""Models in one list, aliases written out."""
KNOWN_MAX = 1_024
"""Model strings whose meaning is remembered."""

SUFFIXES = {
    "floor": Sort.PRICE,
    "nitro": Sort.THROUGHPUT,
    "throughput": Sort.THROUGHPUT,
    "latency": Sort.LATENCY,
}


@dataclass(frozen=True, slots=True)
class Target:
    """One model of the list: what the directory resolves, and by what to choose."""

    model: str
    sort: Sort


class ModelStrings:
    """Reads model strings; remembers what they mean."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = dict(aliases)
        self._known: dict[str, tuple[Target, ...]] = {}

    def targets(self, model: str) -> tuple[Target, ...]:
        """The models to ask, in their order. Raises BadRequest."""
        known = self._known.get(model)
        if known is None:
            known = self._read(model)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[model] = known
        return known

    def _read(self, model: str) -> tuple[Target, ...]:
        targets: dict[Target, None] = {}
        for part in model.split(","):
            for target in self._meant(part.strip()):
                targets[target] = None
        if len(targets) > TARGETS_MAX:
            raise BadRequest(
                reason=f"model names {len(targets)} models; at most {TARGETS_MAX} are tried.",
                param="model",
            )
        return tuple(targets)

    def _meant(self, part: str) -> list[Target]:
        """One part of the list, its alias written out (once: an alias does not name aliases)."""
        name, sort = _suffixed(part)
        alias = self._aliases.get(name)
        if alias is None:
            return [Target(name, sort)]
        meant = [_suffixed(one.strip()) for one in alias.split(",")]
        return [Target(one, sort if sort is not Sort.BALANCE else own) for one, own in meant]


def _suffixed(part: str) -> tuple[str, Sort]:
    if not part:
        raise BadRequest(
            reason="model is empty, or has a comma too many. See GET /v1/models.", param="model"
        )
    name, colon, suffix = part.rpartition(":")
    if not colon or name == "sha256" or name.endswith("@sha256"):
        return part, Sort.BALANCE
    sort = SUFFIXES.get(suffix)
    if sort is None:
        known = ", ".join(f":{one}" for one in sorted(SUFFIXES))
        raise BadRequest(
            reason=f"There is no suffix :{suffix[:40]} here. Known: {known}.", param="model"
        )
    return name, sort
