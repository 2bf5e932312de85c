"""The identity stays put where speed does, and changes where speed does."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from elit_edge.device import identity


def test_the_same_in_the_next_process():
    code = "from elit_edge.device import identity; print(identity())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == identity()
    assert len(identity()) == 16
    int(identity(), 16)


def test_it_is_quick():
    times = []
    for _ in range(5):
        started = time.perf_counter()
        identity()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05


@pytest.mark.parametrize(
    ("path", "content", "changes"),
    [
        ("sys/fs/cgroup/cpu.max", "150000 100000", True),
        ("proc/self/status", "Cpus_allowed_list:\t0-1\n", True),
        ("proc/meminfo", "MemTotal: 32921088 kB\nMemAvailable: 60129280 kB\n", True),
        ("proc/driver/nvidia/gpus/0000/information", "Model: \t NVIDIA L4\n", True),
        ("sys/firmware/acpi/platform_profile", "low-power", True),
        ("proc/meminfo", "MemTotal: 65842176 kB\nMemAvailable: 1000 kB\n", False),
        ("sys/class/thermal/thermal_zone0/temp", "70000", False),
        ("proc/sys/kernel/osrelease", "6.9.0", False),
    ],
)
def test_what_changes_it(planted, path, content, changes):
    root = planted("x86-server-cgroup-v2")
    before = identity(root)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)
    assert (identity(root) != before) is changes


def test_a_power_mode_changes_it(planted):
    root = planted("jetson-orin-nano")
    before = identity(root)
    (root / "var/lib/nvpmodel/status").write_text("pmode:0002")
    assert identity(root) != before
