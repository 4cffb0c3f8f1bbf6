"""AMD and Apple machines, from recorded outputs: none of them is here.

`rocm-smi --json`: a Radeon RX 7900 XT (marimo-team/marimo issue 9237) and a Radeon 780M
(sebhildebrandt/systeminformation pull request 960). sysfs names and units: the kernel's page on
amdgpu and hwmon; sizes are the same cards'. `system_profiler`: an M1 Pro (mondoohq issues 80, 1380),
an M3 Max (mondoohq/mql pull request 6231), graphics of an M3 Pro (timmo001/system-bridge 3408).
"""

import json
from pathlib import Path

import pytest

from penstock.adapters.hardware.amd import (
    MEMORY_BYTES_MIN,
    amd_cards,
    amd_readings,
    rocm_names,
)
from penstock.adapters.hardware.apple import apple_machine, cores_of, memory_of
from penstock.kit.hardware import GpuReading, Host, Maker
from penstock.miner.hardware import detect

XT_BYTES = 21_458_059_264
ROCM = json.dumps(
    {
        "card0": {
            "Card Series": "Radeon RX 7900 XT",
            "Card Model": "0x744c",
            "Card Vendor": "Advanced Micro Devices Inc. [AMD/ATI]",
            "Card SKU": "D70401XT",
            "GUID": "26967",
            "GFX Version": "gfx1100",
            "PCI Bus": "0000:03:00.0",
        },
        "card1": {"Device Name": "Phoenix3", "Unique ID": "N/A", "PCI Bus": "0000:C4:00.0"},
    }
)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    drm = tmp_path / "class/drm"
    write(
        drm / "card0/device",
        {
            "vendor": "0x1002",
            "device": "0x744c",
            "unique_id": "9246aa01bb02cc03",
            "uevent": "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_SLOT_NAME=0000:03:00.0",
            "mem_info_vram_total": str(XT_BYTES),
            "mem_info_vram_used": "27856896",
            "gpu_busy_percent": "42",
            "hwmon/hwmon3/power1_average": "187000000",
            "hwmon/hwmon3/power1_cap": "257000000",
            "hwmon/hwmon3/temp1_input": "54000",
        },
    )
    write(
        drm / "card1/device",
        {"vendor": "0x1002", "device": "0x15bf", "mem_info_vram_total": str(MEMORY_BYTES_MIN - 1)},
    )
    write(drm / "card2/device", {"vendor": "0x10de", "mem_info_vram_total": str(80 << 30)})
    write(drm / "card0-DP-1/device", {"vendor": "0x1002", "mem_info_vram_total": str(80 << 30)})
    write(drm / "renderD128/device", {"vendor": "0x1002", "mem_info_vram_total": str(80 << 30)})
    write(tmp_path / "module/amdgpu", {"version": "6.12.12"})
    return tmp_path


def test_a_card_is_read_from_the_kernel_and_named_by_rocm(sysfs: Path) -> None:
    (card,) = amd_cards(sysfs, lambda _: ROCM)
    assert card.model == "Radeon RX 7900 XT"
    assert card.uuid == card.board == "GPU-9246aa01bb02cc03"
    assert card.memory_bytes == XT_BYTES
    assert (card.maker, card.bus, card.driver) == (Maker.AMD, "0000:03:00.0", "6.12.12")


def test_its_reading_is_in_our_units(sysfs: Path) -> None:
    assert amd_readings(sysfs) == (
        GpuReading(
            uuid="GPU-9246aa01bb02cc03",
            memory_used_bytes=27_856_896,
            busy_ppm=420_000,
            power_mw=187_000,
            power_max_mw=257_000,
            temperature_mc=54_000,
        ),
    )


def test_a_card_of_a_data_centre_names_itself(sysfs: Path) -> None:
    write(sysfs / "class/drm/card0/device", {"product_name": "AMD Instinct MI300X OAM"})
    (card,) = amd_cards(sysfs, lambda _: ROCM)
    assert card.model == "AMD Instinct MI300X OAM"
    assert detect(Host(), (card,)).kind == "amd-mi300x"


def test_a_newer_kernel_says_power_under_another_name(sysfs: Path) -> None:
    hwmon = sysfs / "class/drm/card0/device/hwmon/hwmon3"
    (hwmon / "power1_average").rename(hwmon / "power1_input")
    assert amd_readings(sysfs)[0].power_mw == 187_000


def test_without_rocm_the_chips_number_is_its_name_and_without_sensors_they_are_left_out(
    sysfs: Path,
) -> None:
    device = sysfs / "class/drm/card0/device"
    for name in ("unique_id", "gpu_busy_percent", "mem_info_vram_used"):
        (device / name).unlink()
    for file in (device / "hwmon/hwmon3").iterdir():
        file.unlink()
    (card,) = amd_cards(sysfs, lambda _: "")
    assert (card.model, card.uuid) == ("AMD 0x744c", "PCI-0000:03:00.0")
    assert amd_readings(sysfs) == (GpuReading(uuid="PCI-0000:03:00.0"),)


def test_a_machine_without_such_cards_asks_no_program(tmp_path: Path) -> None:
    def never(_argv: tuple[str, ...]) -> str:
        raise AssertionError("rocm-smi was asked")

    assert amd_cards(tmp_path, never) == ()
    assert amd_readings(tmp_path) == ()


@pytest.mark.parametrize(
    "output", ["", "no json", "[]", '{"card0": 1}', '{"card0": {}}', '{"system": {"x": 1}}', "\x00"]
)
def test_what_rocm_says_wrong_names_nothing(output: str) -> None:
    assert rocm_names(output) == {}


def test_names_are_found_by_bus_whatever_the_capitals() -> None:
    older = '{"card0": {"Card series": "Vega 20", "PCI Bus": "0000:C4:00.0"}}'
    assert rocm_names(older) == {"0000:c4:00.0": "Vega 20"}
    assert rocm_names(ROCM) == {"0000:03:00.0": "Radeon RX 7900 XT"}
    assert rocm_names(older.replace("Vega 20", "N/A")) == {}


def profile(chip: str, cores: str, memory: str) -> str:
    return json.dumps(
        {
            "SPHardwareDataType": [
                {
                    "_name": "hardware_overview",
                    "chip_type": chip,
                    "machine_model": "MacBookPro18,3",
                    "number_processors": cores,
                    "physical_memory": memory,
                    "platform_UUID": "30BD6509-4710-567C-826E-3AF2D66DBF35",
                }
            ],
            "SPDisplaysDataType": [
                {"_name": chip, "spdisplays_mtlgpufamilysupport": "spdisplays_metal3"}
            ],
        }
    )


def test_an_apple_machine_has_one_memory_for_both() -> None:
    host, (card,) = apple_machine(lambda _: profile("Apple M1 Pro", "proc 10:8:2", "16 GB"))
    assert (host.model, host.cores_milli, host.memory_bytes) == ("Apple M1 Pro", 10_000, 16 << 30)
    assert card.is_unified
    assert 10 << 30 < card.memory_bytes < 11 << 30
    found = detect(host, (card,))
    assert found.kind == "apple-m1-pro"
    assert {"gpu", "cpu", "apple-m1-pro"} <= found.classes


def test_an_older_mac_has_a_processor_only() -> None:
    intel = profile("", "4", "16 GB").replace('"chip_type": ""', '"cpu_type": "Intel Core i7"')
    host, cards = apple_machine(lambda _: intel)
    assert (host.model, host.host_cores, cards) == ("Intel Core i7", 4, ())


@pytest.mark.parametrize("output", ["", "{", "[]", "{}", '{"SPHardwareDataType": []}', "\x00"])
def test_a_program_that_says_nothing_leaves_everything_empty(output: str) -> None:
    host, cards = apple_machine(lambda _: output)
    assert (host.model, host.memory_bytes, cards) == ("", 0, ())


def test_apples_words_for_numbers() -> None:
    assert [cores_of(text) for text in ("proc 16:12:4", "proc 18:6:12:0", "8", "", "x")] == [
        *(16, 18, 8, 0, 0)
    ]
    assert [memory_of(text) for text in ("64 GB", "1 TB", "", "16", "16 XB")] == [
        *(64 << 30, 1 << 40, 0, 0, 0)
    ]
