"""What a miner says of its machine is read from the machine; what it is told is checked."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.hardware import Gpu, Host, Maker
from penstock.miner.config import MinerConfig, parse_config, read_config
from penstock.miner.errors import ConfigInvalid
from penstock.miner.hardware import detect, gpu_class
from penstock.miner.policy import PricePolicy, asked_price
from penstock.miner.verdicts import Head, Meaning, meaning
from penstock.spec.params import LOCAL
from penstock.spec.pricing import is_within
from penstock.spec.scoring import HARDWARE_PPM, hardware_ppm
from penstock.spec.units import PPM, Price

HOST = Host(
    model="Test CPU 9000",
    cores_milli=1_500,
    memory_bytes=8_000_000 * 1024,
    host_cores=8,
    host_memory_bytes=1 << 36,
    board=("0123", "", "", "", ""),
)


def test_a_cpu_machine_is_what_it_may_use() -> None:
    found = detect(HOST)
    assert (found.kind, found.model, found.cores) == ("cpu", "Test CPU 9000", 2)
    assert found.memory_bytes == 8_000_000 * 1024
    assert {"cpu", "any", ""} <= found.classes
    assert "gpu" not in found.classes


def test_a_machine_that_says_nothing_has_empty_facts_and_still_a_device() -> None:
    found = detect(Host())
    assert (found.model, found.cores, found.memory_bytes) == ("", 0, 0)
    assert len(found.device) == 64


def test_the_device_is_the_same_at_every_look_and_another_on_another_machine() -> None:
    device = detect(HOST).device
    assert detect(replace(HOST, cores_milli=500, memory_bytes=1)).device == device
    assert detect(replace(HOST, board=("4567", "", "", "", ""))).device != device
    assert detect(replace(HOST, board=("0123", "", "", "S1", ""))).device != device
    cards = (Gpu("NVIDIA L4", "GPU-1", 1), Gpu("NVIDIA L4", "GPU-2", 1))
    with_cards = detect(HOST, cards)
    assert with_cards.device != device
    assert detect(HOST, cards[::-1]).device == with_cards.device
    assert {"gpu", "nvidia-l4", "cpu"} <= with_cards.classes


def test_the_slices_of_one_card_are_one_device_however_it_is_cut() -> None:
    def cut(*uuids: str) -> tuple[Gpu, ...]:
        name = "NVIDIA A100-SXM4-80GB MIG 1g.10gb"
        return tuple(Gpu(name, uuid, 10 << 30, board="GPU-1") for uuid in uuids)

    whole = detect(HOST, (Gpu("NVIDIA A100-SXM4-80GB", "GPU-1", 80 << 30, board="GPU-1"),))
    assert detect(HOST, cut("MIG-1", "MIG-2")).device == detect(HOST, cut("MIG-3")).device
    assert detect(HOST, cut("MIG-1")).device == whole.device
    assert detect(HOST, cut("MIG-1")).kind == "nvidia-a100-mig-1g-10gb"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100"),
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100"),
        ("NVIDIA A100 80GB PCIe", "nvidia-a100"),
        ("NVIDIA H100 NVL", "nvidia-h100"),
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
        ("Tesla T4", "nvidia-t4"),
        ("NVIDIA L40S", "nvidia-l40s"),
        ("NVIDIA A10", "nvidia-a10"),
        ("NVIDIA B200", "nvidia-b200"),
        ("NVIDIA L4", "nvidia-l4"),
    ],
)
def test_cards_get_the_names_that_the_law_weighs(model: str, kind: str) -> None:
    assert gpu_class(model) == kind
    assert kind in HARDWARE_PPM


@pytest.mark.parametrize(
    ("model", "maker", "kind"),
    [
        ("AMD Instinct MI300X OAM", Maker.AMD, "amd-mi300x"),
        ("Radeon RX 7900 XT", Maker.AMD, "amd-rx-7900-xt"),
        ("AMD 0x744c", Maker.AMD, "amd-0x744c"),
        ("Apple M3 Max", Maker.APPLE, "apple-m3-max"),
        ("Apple M4", Maker.APPLE, "apple-m4"),
    ],
)
def test_other_makers_cards_have_names_too_and_weigh_as_the_reference(
    model: str, maker: Maker, kind: str
) -> None:
    assert gpu_class(model, maker) == kind
    assert hardware_ppm(kind) == hardware_ppm("cpu")


PRICES = st.builds(
    Price,
    request=st.integers(0, 10**9),
    prompt=st.integers(0, 10**12),
    cached=st.integers(0, 10**12),
    completion=st.integers(0, 10**12),
    images=st.integers(0, 10**9),
    audio_ms=st.integers(0, 10**9),
)


@given(
    ceiling=PRICES,
    share=st.integers(0, PPM),
    target=st.integers(0, 3 * PPM),
    follows=st.booleans(),
)
def test_no_price_is_above_the_manifests(
    *, ceiling: Price, share: int, target: int, follows: bool
) -> None:
    policy = PricePolicy(share_ppm=share, follow_target=follows)
    assert is_within(asked_price(policy, ceiling, target_ppm=target), ceiling)


@given(ceiling=PRICES)
def test_all_of_the_reference_price_is_the_reference_price(ceiling: Price) -> None:
    assert asked_price(PricePolicy(), ceiling, target_ppm=PPM) == ceiling
    assert asked_price(PricePolicy(follow_target=False), ceiling, target_ppm=1) == ceiling


def test_a_share_beyond_the_whole_is_no_policy() -> None:
    with pytest.raises(ValueError, match="share_ppm"):
        PricePolicy(share_ppm=PPM + 1)


@pytest.mark.parametrize(
    ("status", "content_type", "stream", "expected"),
    [
        (200, "application/json", False, Meaning.ANSWER),
        (200, "text/event-stream; charset=utf-8", True, Meaning.ANSWER),
        (200, "text/event-stream", False, Meaning.FAILED),
        (200, "application/json", True, Meaning.FAILED),
        (400, "", True, Meaning.REQUEST_REFUSED),
        (404, "", False, Meaning.REQUEST_REFUSED),
        (401, "", False, Meaning.FAILED),
        (429, "", True, Meaning.FULL),
        (503, "", False, Meaning.FULL),
        (500, "", False, Meaning.REQUEST_BLAMED),
        (501, "application/json", True, Meaning.REQUEST_BLAMED),
        (502, "", False, Meaning.FAILED),
        (302, "", False, Meaning.FAILED),
    ],
)
def test_an_engines_reply_means_one_thing(
    *, status: int, content_type: str, stream: bool, expected: Meaning
) -> None:
    head = Head(status=status, content_type=content_type, is_stream_wanted=stream)
    assert meaning(head) is expected


GOOD: dict[str, Any] = {
    "name": "m-1",
    "network": "local",
    "market_url": "http://127.0.0.1:1",
    "home": "/var/lib/penstock",
    "key_file": "/etc/penstock/key",
    "chutes": ["tiny-chat"],
}


def test_a_configuration_is_read_as_json_and_as_toml() -> None:
    config = parse_config(msgspec.json.encode(GOOD), place="m.json")
    # A JSON string or list of strings is spelled the same in TOML.
    toml = "\n".join(f"{name} = {msgspec.json.encode(GOOD[name]).decode()}" for name in GOOD)
    assert config.params is LOCAL
    assert config.prices == PricePolicy()
    assert parse_config(toml.encode(), place="m.toml") == config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "Big Miner"}, "name"),
        ({"network": "moon"}, "network"),
        ({"market_url": "market"}, "market_url"),
        ({"price_share_ppm": -1}, "price_share_ppm"),
        ({"instances_max": 0}, "instances_max"),
        ({"engine_threads": 0}, "engine_threads"),
        ({"chutes": []}, "auto"),
        ({"chute": ["typo"]}, "chute"),
        ({"port": "80"}, "port"),
        ({"runtime": "abacus"}, "runtime"),
        ({"runtime": "docker"}, "images"),
        ({"runtime": "kubernetes", "images": {"default": "p"}, "kubernetes": {"user": 0}}, "user"),
        ({"weights": {"quota_bytes": 0}}, "quota_bytes"),
        ({"weights": {"reserve_bytes": -1}}, "reserve_bytes"),
    ],
)
def test_a_wrong_configuration_says_which_field_and_what_to_do(
    change: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(msgspec.json.encode({**GOOD, **change}), place="m.json")
    assert word in caught.value.reason
    assert "m.json" in str(caught.value)


def test_engines_in_containers_have_the_image_of_their_kind_or_the_default() -> None:
    def config(**change: Any) -> MinerConfig:
        return parse_config(msgspec.json.encode({**GOOD, **change}), place="m.json")

    images = {"vllm": "v@sha256:1", "default": "p@sha256:2"}
    for runtime in ("docker", "podman", "kubernetes"):
        found = config(runtime=runtime, images=images)
        assert found.image("vllm") == "v@sha256:1"
        assert found.image("llamacpp") == "p@sha256:2"
    assert config(runtime="docker", images={"vllm": "v"}).image("llamacpp") == ""
    assert config(images=images).image("vllm") == "", "processes of this machine have none"


def test_a_configuration_that_is_not_there_is_told_plainly(tmp_path: Any) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read_config(tmp_path / "none.json")
    assert "none.json" in str(caught.value)
