"""Memory: which slots an instance gets, and how much of them. Pure functions and one small table.

A slot is one graphics card (or a slice of one), or the processor. Several chutes share a slot as long
as the bytes that they need fit together. What a chute needs was measured when it last ran; before that
it is estimated from its weights and the tokens that it may hold at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.miner.hardware import ANY, CPU, GPU, Hardware, gpu_class, gpu_device
from penstock.spec.messages import Manifest, Modality
from penstock.spec.units import PPM

PROCESSOR = "cpu"
"""The name of the slot that every machine has."""
CARD_ENGINES = frozenset({"vllm", "sglang", "transformers", "diffusers"})
"""Engines that take a card where there is one, for a chute that runs on anything."""
USABLE_PPM = 900_000
"""The rest of a slot is the system's, the driver's, and other people's."""
SPARE_PPM = 50_000
"""Added to what was measured: the next run may hold a little more."""
CARD_OVERHEAD_BYTES = 768 << 20
"""A driver's context, kernels and graphs, on each card."""
PROCESSOR_OVERHEAD_BYTES = 96 << 20
"""An interpreter with an engine's libraries."""
WEIGHTS_OVERHEAD_PPM = 100_000
KV_SHIFT = 16
"""A token's keys and values take about a 65,536th of the weights: half to all of it in today's models
with grouped heads, in whatever precision the weights are."""
KV_BYTES_MIN = 256
CARDS_MAX = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory that instances share. `kind` and `device` are what offers say of it; `classes` are the
    needs of manifests that it meets. `memory_bytes` 0: nobody knows, so there is no bound.
    """

    name: str
    kind: str
    device: str
    memory_bytes: int
    classes: frozenset[str]

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes * USABLE_PPM // PPM

    @property
    def is_card(self) -> bool:
        return self.name != PROCESSOR


@dataclass(frozen=True, slots=True)
class Share:
    """What one instance holds: `bytes_each` on each of these slots."""

    slots: tuple[str, ...]
    bytes_each: int

    @property
    def cards(self) -> tuple[str, ...]:
        """The uuids of the cards in it."""
        return tuple(name for name in self.slots if name != PROCESSOR)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is known of a chute's memory, 0 for what is not: as it was measured, or as it is estimated."""

    weights_bytes: int = 0
    measured_bytes: int = 0


def slots_of(hardware: Hardware) -> tuple[Slot, ...]:
    """The processor first, then each card."""
    processor = Slot(
        name=PROCESSOR,
        kind=CPU,
        device=hardware.device,
        memory_bytes=hardware.memory_bytes,
        classes=frozenset({"", ANY, CPU}),
    )
    cards = tuple(
        Slot(
            name=gpu.uuid,
            kind=gpu_class(gpu.model, gpu.maker),
            device=gpu_device(gpu),
            memory_bytes=gpu.memory_bytes,
            classes=frozenset({"", ANY, GPU, gpu_class(gpu.model, gpu.maker)}),
        )
        for gpu in hardware.gpus
    )
    return (processor, *cards)


def need_bytes(manifest: Manifest, footprint: Footprint, *, is_card: bool) -> int:
    """How much memory an instance takes over all its slots; 0 when nothing is known of it.

    An estimate is of the weights, of the keys and values of as many tokens as it may hold, and of what
    every engine takes.
    """
    if footprint.measured_bytes:
        return footprint.measured_bytes * (PPM + SPARE_PPM) // PPM
    overhead = CARD_OVERHEAD_BYTES if is_card else PROCESSOR_OVERHEAD_BYTES
    weights = footprint.weights_bytes
    if not weights:
        return 0 if is_card else overhead
    tokens = 0
    if manifest.modality is Modality.CHAT:
        tokens = manifest.limits.context_tokens_max * manifest.limits.parallel_max
    kv_bytes = tokens * max(weights >> KV_SHIFT, KV_BYTES_MIN)
    return weights * (PPM + WEIGHTS_OVERHEAD_PPM) // PPM + kv_bytes + overhead


def fitting(
    manifest: Manifest,
    footprint: Footprint,
    *,
    slots: tuple[Slot, ...],
    taken: Mapping[str, int],
) -> Share | None:
    """The share that this instance would get now, None when there is no room for it.

    The fullest slot that has room is taken, so that large ones stay free; ties by order. Several cards
    (2, 4, 8 of one kind) are taken only for what no single one could ever hold. What nothing is known
    of gets a whole free card.
    """
    for group in _groups(manifest, slots):
        need = need_bytes(manifest, footprint, is_card=group[0].is_card)
        share = _on_one(group, need, taken) or _on_several(group, need, taken)
        if share is not None:
            return share
    return None


def displaced(
    manifest: Manifest,
    footprint: Footprint,
    *,
    slots: tuple[Slot, ...],
    shares: Mapping[str, Share],
    movable: tuple[str, ...],
) -> tuple[str, ...] | None:
    """Which movable instances have to go so that this one fits, None if even that is not enough.

    They go in the order given; those that turn out not to be in the way stay.
    """

    def fits_without(going: list[str]) -> bool:
        left = {name: share for name, share in shares.items() if name not in going}
        return fitting(manifest, footprint, slots=slots, taken=taken_bytes(left)) is not None

    going: list[str] = []
    for name in movable:
        if fits_without(going):
            break
        going.append(name)
    if not fits_without(going):
        return None
    for name in going[:-1]:
        rest = [one for one in going if one != name]
        if fits_without(rest):
            going = rest
    return tuple(going)


def card_ppm(share: Share, slot: Slot) -> int:
    """How much of the card's memory an instance may take; 0 on the processor."""
    if not slot.is_card or not slot.memory_bytes:
        return 0
    return min(max(share.bytes_each * PPM // slot.memory_bytes, 1), PPM)


def taken_bytes(shares: Mapping[str, Share]) -> dict[str, int]:
    """Slot -> what is taken of it."""
    taken: dict[str, int] = {}
    for share in shares.values():
        for slot in share.slots:
            taken[slot] = taken.get(slot, 0) + share.bytes_each
    return taken


@dataclass(slots=True)
class Memory:
    """What is reserved for whom. Taking and giving back twice is harmless."""

    slots: tuple[Slot, ...]
    shares: dict[str, Share] = field(default_factory=dict)

    def fitting(self, manifest: Manifest, footprint: Footprint) -> Share | None:
        """As the function, with what is taken now."""
        taken = taken_bytes(self.shares)
        return fitting(manifest, footprint, slots=self.slots, taken=taken)

    def has_room(self, share: Share) -> bool:
        """Does this very share fit now?"""
        taken = taken_bytes(self.shares)
        known = {slot.name: slot for slot in self.slots}
        return all(
            name in known and _is_free(known[name], share.bytes_each, taken) for name in share.slots
        )

    def knows(self, share: Share) -> bool:
        """Are all its slots (still) there?"""
        return set(share.slots) <= {slot.name for slot in self.slots}

    def reserve(self, name: str, share: Share) -> None:
        self.shares[name] = share

    def release(self, name: str) -> None:
        self.shares.pop(name, None)

    def of(self, share: Share) -> tuple[Slot, ...]:
        """The slots of a share, in its order."""
        known = {slot.name: slot for slot in self.slots}
        return tuple(known[name] for name in share.slots)


def _groups(manifest: Manifest, slots: tuple[Slot, ...]) -> list[list[Slot]]:
    """Slots that could serve it, of one kind each, in the order in which they are tried."""
    kinds: dict[str, list[Slot]] = {}
    for slot in slots:
        if manifest.hardware in slot.classes:
            kinds.setdefault(slot.kind, []).append(slot)
    wants_card = manifest.engine in CARD_ENGINES
    return sorted(kinds.values(), key=lambda group: group[0].is_card is not wants_card)


def _on_one(group: list[Slot], need: int, taken: Mapping[str, int]) -> Share | None:
    best: tuple[int, Slot, int] | None = None
    for slot in group:
        share = need or slot.usable_bytes
        if _is_free(slot, share, taken):
            left = slot.usable_bytes - taken.get(slot.name, 0)
            if best is None or left < best[0]:
                best = (left, slot, share)
    return None if best is None else Share((best[1].name,), best[2])


def _on_several(group: list[Slot], need: int, taken: Mapping[str, int]) -> Share | None:
    largest = max(slot.usable_bytes for slot in group)
    if not group[0].is_card or need <= largest:
        return None
    by_room = sorted(group, key=lambda slot: taken.get(slot.name, 0) - slot.usable_bytes)
    count = 2
    while count <= min(len(group), CARDS_MAX):
        each = -(-need // count)
        chosen = by_room[:count]
        if all(_is_free(slot, each, taken) for slot in chosen):
            return Share(tuple(slot.name for slot in chosen), each)
        count *= 2
    return None


def _is_free(slot: Slot, share_bytes: int, taken: Mapping[str, int]) -> bool:
    if not slot.memory_bytes:
        return True
    return taken.get(slot.name, 0) + share_bytes <= slot.usable_bytes
