"""Thermal zones and clocks from /sys.

Source: the kernel's driver-api/thermal/sysfs-api.rst and admin-guide/pm/cpufreq.rst.
"""

from __future__ import annotations

import re

from elit_edge.device.facts import Frequency, ThermalZone
from elit_edge.device.tree import Tree, cpu_list

ZONES = "sys/class/thermal"
POLICIES = "sys/devices/system/cpu/cpufreq"
COLDEST_MC, HOTTEST_MC = -60_000, 250_000
"""Millidegrees outside of these are what drivers write for a sensor that is off."""
COOLEST_TRIP_C = 35
"""Lower trips are placeholders of drivers; no chip slows down at room temperature."""
HIGHEST_KHZ = 20_000_000


def read_thermal(tree: Tree) -> tuple[ThermalZone, ...]:
    zones = []
    for folder in zone_folders(tree):
        trips = read_trips(tree, folder)
        zone = ThermalZone(
            name=tree.word(f"{folder}/type") or folder.rpartition("/")[2],
            temperature_c=temperature_c(tree, f"{folder}/temp"),
            passive_c=trips.get("passive"),
            hot_c=trips.get("hot"),
            critical_c=trips.get("critical"),
        )
        zones.append(zone)
    return tuple(zones)


def zone_folders(tree: Tree) -> list[str]:
    return [f"{ZONES}/{name}" for name in tree.names(ZONES) if re.fullmatch(r"thermal_zone\d+", name)]


def temperature_c(tree: Tree, path: str) -> float | None:
    found = tree.number(path, COLDEST_MC, HOTTEST_MC)
    return None if found is None else found / 1000


def read_trips(tree: Tree, folder: str) -> dict[str, float]:
    """The lowest temperature of each type of trip point."""
    trips: dict[str, float] = {}
    for name in tree.names(folder):
        if (match := re.fullmatch(r"(trip_point_\d+)_type", name)) is None:
            continue
        kind, limit = tree.word(f"{folder}/{name}"), temperature_c(tree, f"{folder}/{match[1]}_temp")
        if kind is not None and limit is not None and limit >= COOLEST_TRIP_C:
            trips[kind] = min(limit, trips.get(kind, limit))
    return trips


def read_frequencies(tree: Tree) -> tuple[Frequency, ...]:
    return tuple(_frequency(tree, folder) for folder in policy_folders(tree))


def policy_folders(tree: Tree) -> list[str]:
    return [f"{POLICIES}/{name}" for name in tree.names(POLICIES) if re.fullmatch(r"policy\d+", name)]


def khz(tree: Tree, path: str) -> int | None:
    return tree.number(path, 1, HIGHEST_KHZ)


def _frequency(tree: Tree, folder: str) -> Frequency:
    def mhz(name: str) -> float | None:
        found = khz(tree, f"{folder}/{name}")
        return None if found is None else found / 1000

    return Frequency(
        cpus=cpu_list(tree.text(f"{folder}/affected_cpus")) or (),
        current_mhz=mhz("scaling_cur_freq"),
        limit_mhz=mhz("scaling_max_freq"),
        max_mhz=mhz("cpuinfo_max_freq"),
        governor=tree.word(f"{folder}/scaling_governor"),
    )
