"""Batteries and what feeds the machine: /sys/class/power_supply, or psutil where there is no /sys.

Source: the kernel's ABI/testing/sysfs-class-power.
"""

from __future__ import annotations

from typing import Literal

from elit_edge.device.facts import Battery, Power
from elit_edge.device.optional import optional_library
from elit_edge.device.tree import Tree

SUPPLIES = "sys/class/power_supply"
HIGHEST_MICRO = 10**9
"""A kilowatt, kilovolt or kiloampere in millionths."""
STATES: dict[str, Literal["charging", "discharging", "full", "idle"]] = {
    "charging": "charging",
    "discharging": "discharging",
    "full": "full",
    "not charging": "idle",
}


def read_power(tree: Tree) -> Power:
    if tree.here and not tree.exists("sys"):
        return _from_psutil(tree)
    batteries = []
    online: list[int] = []
    for name in tree.names(SUPPLIES):
        folder = f"{SUPPLIES}/{name}"
        kind = tree.word(f"{folder}/type")
        if kind == "Battery" and tree.word(f"{folder}/scope") != "Device":
            batteries.append(_battery(tree, folder))
        elif kind in ("Mains", "USB") and (plugged := tree.number(f"{folder}/online", 0, 2)) is not None:
            online.append(plugged)
    return Power(
        source=_source(online, batteries),
        batteries=tuple(batteries),
        profile=tree.word("sys/firmware/acpi/platform_profile"),
    )


def _battery(tree: Tree, folder: str) -> Battery:
    level: float | None = tree.number(f"{folder}/capacity", 0, 100)
    if level is None:
        now, full = tree.number(f"{folder}/energy_now"), tree.number(f"{folder}/energy_full", 1)
        level = round(min(100.0, 100 * now / full), 1) if now is not None and full is not None else None
    return Battery(
        level_percent=level,
        state=STATES.get((tree.word(f"{folder}/status") or "").lower()),
        power_w=_power_w(tree, folder),
    )


def _power_w(tree: Tree, folder: str) -> float | None:
    # Drivers disagree about the sign while discharging.
    power = tree.number(f"{folder}/power_now", -HIGHEST_MICRO, HIGHEST_MICRO)
    if power is not None:
        return abs(power) / 1e6
    current = tree.number(f"{folder}/current_now", -HIGHEST_MICRO, HIGHEST_MICRO)
    voltage = tree.number(f"{folder}/voltage_now", 0, HIGHEST_MICRO)
    return round(abs(current) * voltage / 1e12, 6) if current is not None and voltage is not None else None


def _source(online: list[int], batteries: list[Battery]) -> Literal["mains", "battery"] | None:
    if any(online):
        return "mains"
    if any(battery.state == "discharging" for battery in batteries) or (online and batteries):
        return "battery"
    return None


def _from_psutil(tree: Tree) -> Power:
    psutil = optional_library(tree, "psutil", "psutil")
    found = psutil.sensors_battery() if psutil is not None and hasattr(psutil, "sensors_battery") else None
    if found is None:
        return Power(source=None, batteries=(), profile=None)
    state: Literal["charging", "discharging"] | None = "discharging" if found.power_plugged is False else None
    battery = Battery(level_percent=float(found.percent), state=state, power_w=None)
    sources: dict[bool | None, Literal["mains", "battery"]] = {True: "mains", False: "battery"}
    return Power(source=sources.get(found.power_plugged), batteries=(battery,), profile=None)
