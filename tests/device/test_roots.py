"""The facts of foreign devices. The expected values stand in the trees themselves and in the makers' data sheets."""

from __future__ import annotations

import pytest

from elit_edge.device import probe
from elit_edge.device.pressure import pressure

from .conftest import ROOTS

NAMES = sorted(path.stem for path in ROOTS.glob("*.tree"))


def kinds(cpu):
    return [(kind.kind, kind.name, kind.logical, kind.max_mhz) for kind in cpu.cores]


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_says_whether_it_was_recorded(name):
    first = (ROOTS / f"{name}.tree").read_text().splitlines()[0]
    assert first.startswith(("# synthetic: ", "# recorded from "))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_not_measured_in_the_name_of_its_device(planted, name):
    device = probe(planted(name))
    assert device.speed is None
    assert device.runtimes == ()
    assert any("record of another machine" in note for note in device.notes)


def test_jetson_orin_nano(planted):
    device = probe(planted("jetson-orin-nano"), measure=False)
    assert device.name == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (device.os, device.kernel, device.machine) == ("Ubuntu 22.04.5 LTS", "5.15.148-tegra", "aarch64")
    assert kinds(device.cpu) == [("uniform", "Cortex-A78AE", 6, 1728.0)]
    assert device.cpu.isa == ("neon", "asimdhp", "asimddp")
    assert device.cpu.last_cache_bytes == 2 * 2048 * 1024
    assert device.jetson.l4t == "36.4.3"
    assert device.jetson.power_mode == "25W"
    watts = {rail.name: rail.power_w for rail in device.jetson.rails}
    assert watts == pytest.approx({"VDD_IN": 6.059, "VDD_CPU_GPU_CV": 1.525, "VDD_SOC": 1.442}, abs=1e-3)
    off = next(zone for zone in device.thermal if zone.name == "cv0-thermal")
    assert off.temperature_c is None
    assert any("thermal_zone2/temp" in note for note in device.notes)
    assert device.frequencies[0].cpus == (0, 1, 2, 3)
    assert device.power.source is None
    assert device.power.batteries == ()


def test_raspberry_pi_5(planted):
    device = probe(planted("raspberry-pi-5"), measure=False)
    assert device.name == "Raspberry Pi 5 Model B Rev 1.0"
    assert kinds(device.cpu) == [("uniform", "Cortex-A76", 4, 2400.0)]
    assert device.cpu.vendor == "ARM"
    assert device.cpu.isa == ("neon", "asimdhp", "asimddp")
    assert device.cpu.last_cache_bytes == 2 << 20
    assert device.memory.total_bytes == 8245248 * 1024
    assert device.memory.limit_bytes is None
    assert device.jetson is None
    assert device.notes == ()
    zone = device.thermal[0]
    assert (zone.temperature_c, zone.passive_c, zone.critical_c) == (52.3, None, 110.0)


def test_a_phone_keeps_most_of_it_to_itself(planted):
    device = probe(planted("android-termux"), measure=False)
    assert (device.os, device.name) == ("Android", "Qualcomm Technologies, Inc SM8550")
    assert kinds(device.cpu) == [
        ("performance", "Cortex-X3", 1, 3187.2),
        ("middle", "Cortex-A715", 2, 2803.2),
        ("middle", "Cortex-A710", 2, 2803.2),
        ("efficiency", "Cortex-A510", 3, 2016.0),
    ]
    assert device.cpu.isa == ("neon", "asimdhp", "asimddp", "i8mm", "bf16")
    assert device.cpu.last_cache_bytes is None
    assert (device.power.source, device.power.batteries) == (None, ())
    assert [zone.temperature_c for zone in device.thermal] == [None, None]
    assert device.container.cgroup_version is None
    unreadable = " ".join(device.notes)
    for path in ("power_supply/battery/type", "thermal_zone0/temp and 1 like it", "scaling_governor"):
        assert path in unreadable


def test_a_container_with_cgroup_v2(planted):
    device = probe(planted("x86-server-cgroup-v2"), measure=False)
    cpu, memory = device.cpu, device.memory
    assert (cpu.logical, cpu.physical, cpu.affinity, cpu.quota_cpus, cpu.usable_cpus) == (16, 8, 8, 2.5, 2.5)
    assert {"avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"} <= set(cpu.isa)
    assert (memory.limit_bytes, memory.used_bytes, memory.usable_bytes) == (4 << 30, 2 << 30, 2 << 30)
    assert (device.container.kind, device.container.cgroup_version) == ("docker", 2)
    assert device.name == "Example Inc. R100"


def test_a_container_with_cgroup_v1(planted):
    device = probe(planted("x86-cgroup-v1"), measure=False)
    cpu, memory = device.cpu, device.memory
    assert (cpu.logical, cpu.affinity, cpu.quota_cpus, cpu.usable_cpus) == (4, 3, 1.5, 1.5)
    assert (memory.limit_bytes, memory.used_bytes, memory.usable_bytes) == (1 << 30, 500 << 20, 524 << 20)
    assert device.container.cgroup_version == 1


def test_a_hybrid_laptop_on_battery(planted):
    root = planted("laptop-on-battery")
    device = probe(root, measure=False)
    assert kinds(device.cpu) == [("performance", None, 4, 4700.0), ("efficiency", None, 8, 3500.0)]
    assert (device.cpu.quota_cpus, device.memory.limit_bytes) == (None, None)
    assert (device.power.source, device.power.profile) == ("battery", "balanced")
    assert [(b.level_percent, b.state, b.power_w) for b in device.power.batteries] == [(17, "discharging", 12.345)]
    package = next(zone for zone in device.thermal if zone.name == "x86_pkg_temp")
    assert (package.temperature_c, package.passive_c) == (92.0, 95.0)
    found = pressure(root)
    assert found.level == "warm"
    assert len(found.reasons) == 2


def test_a_recorded_virtual_machine(planted):
    device = probe(planted("x86-virtual-machine"), measure=False)
    assert kinds(device.cpu) == [("uniform", None, 2, None)]
    assert (device.cpu.vendor, device.cpu.isa) == ("AuthenticAMD", ("fma", "f16c", "avx2"))
    assert device.cpu.last_cache_bytes == 32 << 20
    assert (device.cpu.quota_cpus, device.memory.limit_bytes) == (None, None)
    assert (device.thermal, device.frequencies) == ((), ())
