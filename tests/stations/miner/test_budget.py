"""Memory of cards and processor: what fits where, what has to go, and never more than there is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST

from penstock.kit.hardware import Gpu
from penstock.miner.budget import (
    CARD_OVERHEAD_BYTES,
    PROCESSOR,
    PROCESSOR_OVERHEAD_BYTES,
    Footprint,
    Memory,
    Share,
    Slot,
    displaced,
    fitting,
    need_bytes,
    slots_of,
    taken_bytes,
)
from penstock.miner.hardware import Hardware, gpu_device
from penstock.spec.messages import Manifest, Modality

GIB = 1 << 30
H100 = "NVIDIA H100 80GB HBM3"


def card(number: int, *, model: str = H100, gib: int = 80) -> Gpu:
    return Gpu(model=model, uuid=f"GPU-{number}", memory_bytes=gib * GIB)


def machine(*gpus: Gpu, gib: int = 64) -> tuple[Slot, ...]:
    return slots_of(
        Hardware(
            kind="any",
            model="m",
            cores=8,
            memory_bytes=gib * GIB,
            gpus=gpus,
            device="machine",
        )
    )


def chute(hardware: str = "gpu", *, engine: str = "vllm", tokens: int = 8192) -> Manifest:
    limits = replace(MANIFEST.limits, context_tokens_max=tokens, parallel_max=4)
    return replace(MANIFEST, hardware=hardware, engine=engine, limits=limits)


def test_the_processor_and_each_card_are_slots_with_devices_of_their_own() -> None:
    one, two = card(1), card(2, model="NVIDIA L4", gib=24)
    processor, first, second = machine(one, two)
    assert (processor.name, processor.kind, processor.device) == (PROCESSOR, "cpu", "machine")
    assert (first.name, first.kind, first.device) == ("GPU-1", "nvidia-h100", gpu_device(one))
    assert (second.kind, second.memory_bytes) == ("nvidia-l4", 24 * GIB)
    assert first.device != second.device
    assert "nvidia-l4" in second.classes
    assert "nvidia-l4" not in first.classes


def test_slices_of_one_card_are_one_device_and_another_machine_changes_nothing() -> None:
    whole = card(1)
    cut = Gpu(model=f"{H100} MIG 1g.10gb", uuid="MIG-7", memory_bytes=GIB, board=whole.uuid)
    assert gpu_device(cut) == gpu_device(whole)
    assert machine(whole, gib=1)[1].device == machine(card(0), whole)[2].device


def test_an_estimate_is_weights_and_keys_and_values_and_an_engines_own() -> None:
    small = need_bytes(chute(tokens=1024), Footprint(16 * GIB), is_card=True)
    large = need_bytes(chute(tokens=8192), Footprint(16 * GIB), is_card=True)
    assert small > 16 * GIB + CARD_OVERHEAD_BYTES
    # An 8B model in half precision takes 128 KiB a token; we reckon with twice that.
    assert (large - small) // (4 * 7168) == 256 << 10
    voice = replace(chute(), modality=Modality.SPEECH)
    assert need_bytes(voice, Footprint(GIB), is_card=False) < 2 * GIB


def test_what_was_measured_is_believed_more_than_what_was_estimated() -> None:
    measured = need_bytes(chute(), Footprint(16 * GIB, 5 * GIB), is_card=True)
    assert 5 * GIB < measured < 6 * GIB


def test_what_nothing_is_known_of_gets_a_whole_card_but_not_the_whole_processor() -> None:
    slots = machine(card(1))
    on_card = fitting(chute(), Footprint(), slots=slots, taken={})
    assert on_card == Share(("GPU-1",), slots[1].usable_bytes)
    assert fitting(chute(), Footprint(), slots=slots, taken={"GPU-1": 1}) is None
    small = fitting(chute("cpu"), Footprint(), slots=slots, taken={PROCESSOR: GIB})
    assert small == Share((PROCESSOR,), PROCESSOR_OVERHEAD_BYTES)


def test_several_chutes_share_a_card_until_it_is_full() -> None:
    memory = Memory(machine(card(1)))
    names: list[str] = []
    while (share := memory.fitting(chute(), Footprint(measured_bytes=16 * GIB))) is not None:
        names.append(f"m-{len(names)}")
        memory.reserve(names[-1], share)
    assert len(names) == 4
    memory.release("m-2")
    assert memory.fitting(chute(), Footprint(measured_bytes=16 * GIB)) is not None


def test_the_fullest_card_that_has_room_is_taken_so_that_large_ones_stay_free() -> None:
    slots = machine(card(1), card(2), card(3))
    share = fitting(
        chute(), Footprint(measured_bytes=8 * GIB), slots=slots, taken={"GPU-2": 40 * GIB}
    )
    assert share is not None
    assert share.slots == ("GPU-2",)


def test_several_cards_are_taken_only_for_what_no_single_one_could_hold() -> None:
    slots = machine(*(card(number) for number in range(4)))
    large = fitting(chute(), Footprint(measured_bytes=140 * GIB), slots=slots, taken={})
    assert large is not None
    assert len(large.slots) == len(large.cards) == 4
    assert large.bytes_each * 4 >= 140 * GIB
    full = dict.fromkeys(("GPU-0", "GPU-1", "GPU-2", "GPU-3"), 60 * GIB)
    assert fitting(chute(), Footprint(measured_bytes=40 * GIB), slots=slots, taken=full) is None
    too_large = Footprint(measured_bytes=4000 * GIB)
    assert fitting(chute(), too_large, slots=slots, taken={}) is None


def test_cards_of_two_kinds_never_work_on_one_model() -> None:
    slots = machine(card(1), card(2, model="NVIDIA L4", gib=24))
    assert fitting(chute(), Footprint(measured_bytes=80 * GIB), slots=slots, taken={}) is None


@pytest.mark.parametrize(
    ("engine", "slot"), [("vllm", "GPU-1"), ("llamacpp", PROCESSOR), ("flite", PROCESSOR)]
)
def test_what_runs_on_anything_goes_where_its_engine_is_at_home(engine: str, slot: str) -> None:
    share = fitting(
        chute("any", engine=engine),
        Footprint(measured_bytes=GIB),
        slots=machine(card(1)),
        taken={},
    )
    assert share is not None
    assert share.slots == (slot,)


def test_a_class_that_is_not_here_has_no_room() -> None:
    assert fitting(chute("nvidia-b200"), Footprint(), slots=machine(card(1)), taken={}) is None
    assert fitting(chute("gpu"), Footprint(), slots=machine(), taken={}) is None


def test_a_machine_that_does_not_tell_its_memory_sets_no_bound() -> None:
    slots = machine(gib=0)
    for number in range(50):
        taken = {PROCESSOR: number * GIB}
        assert fitting(chute("cpu"), Footprint(GIB), slots=slots, taken=taken) is not None


def test_no_more_goes_than_has_to() -> None:
    slots = machine(card(1), card(2))
    shares = {
        "small": Share(("GPU-1",), 10 * GIB),
        "other": Share(("GPU-2",), 60 * GIB),
        "large": Share(("GPU-1",), 60 * GIB),
    }
    wanted = Footprint(measured_bytes=50 * GIB)
    movable = ("small", "other", "large")
    going = displaced(chute(), wanted, slots=slots, shares=shares, movable=movable)
    assert going == ("other",)
    assert displaced(chute(), wanted, slots=slots, shares=shares, movable=("small",)) is None
    roomy = Footprint(measured_bytes=GIB)
    assert displaced(chute(), roomy, slots=slots, shares=shares, movable=movable) == ()
    nothing = displaced(chute("nvidia-b200"), wanted, slots=slots, shares=shares, movable=movable)
    assert nothing is None


def test_a_share_is_known_only_while_its_cards_are_there() -> None:
    memory = Memory(machine(card(1)))
    share = Share(("GPU-1",), 30 * GIB)
    assert memory.knows(share)
    assert memory.has_room(share)
    memory.reserve("a", share)
    memory.reserve("a", share)
    memory.reserve("b", share)
    assert not memory.has_room(share)
    assert [slot.kind for slot in memory.of(share)] == ["nvidia-h100"]
    assert not memory.knows(Share(("GPU-9",), 1))
    memory.release("a")
    memory.release("a")
    assert memory.has_room(share)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cpu", "gpu", "any", "nvidia-h100"]),
            st.integers(0, 200),
            st.integers(0, 200),
        ),
        max_size=40,
    )
)
def test_no_slot_is_ever_taken_beyond_what_is_usable(
    asked: list[tuple[str, int, int]],
) -> None:
    memory = Memory(machine(card(1), card(2), card(3, model="NVIDIA L4", gib=24)))
    for number, (hardware, weights, measured) in enumerate(asked):
        share = memory.fitting(chute(hardware), Footprint(weights * GIB, measured * GIB))
        if share is not None:
            memory.reserve(f"m-{number}", share)
    taken = taken_bytes(memory.shares)
    assert all(taken.get(slot.name, 0) <= slot.usable_bytes for slot in memory.slots)
