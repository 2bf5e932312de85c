"""Whether the machine is about to slow down, or to run out of charge: cheap enough to ask between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from elit_edge.device.jetson import MODE
from elit_edge.device.power import read_power
from elit_edge.device.thermal import khz, policy_folders, read_trips, temperature_c, zone_folders
from elit_edge.device.tree import Tree

Level = Literal["none", "warm", "hot"]
NEAR_TRIP_C = 5.0
WARM_CLOCK, HOT_CLOCK = 0.8, 0.5
"""Shares of the highest clock under which a cap counts."""
WARM_CHARGE_PERCENT, HOT_CHARGE_PERCENT = 20, 8
_ORDER: tuple[Level, ...] = ("none", "warm", "hot")


class Pressure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How soon the machine will slow down, and by what: `warm` is near, `hot` is now."""

    level: Level
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Zone:
    name: str
    path: str
    trip_c: float


@dataclass(frozen=True)
class _Clock:
    path: str
    max_khz: int


def pressure(root: Path = Path("/")) -> Pressure:
    """The worst of temperatures, clock caps and charge; `none` where nothing can be read.

    Trip points and highest clocks are read once a process, the rest anew at each call.
    """
    tree = Tree(root)
    zones, clocks = _layout(root)
    found: list[tuple[Level, str]] = []
    for zone in zones:
        celsius = temperature_c(tree, zone.path)
        if celsius is not None and celsius >= zone.trip_c - NEAR_TRIP_C:
            level: Level = "hot" if celsius >= zone.trip_c else "warm"
            found.append((level, f"{zone.name} at {celsius:.1f} °C, slows down at {zone.trip_c:g} °C"))
    for clock in clocks:
        limit = khz(tree, clock.path)
        if limit is not None and limit < WARM_CLOCK * clock.max_khz:
            level = "hot" if limit < HOT_CLOCK * clock.max_khz else "warm"
            found.append((level, f"clock held at {limit / 1000:.0f} of {clock.max_khz / 1000:.0f} MHz"))
    found.extend(_charge(tree))
    worst = max((_ORDER.index(level) for level, _ in found), default=0)
    return Pressure(_ORDER[worst], tuple(dict.fromkeys(reason for _, reason in found)))


def _charge(tree: Tree) -> list[tuple[Level, str]]:
    batteries = read_power(tree).batteries
    levels = [battery.level_percent for battery in batteries if battery.level_percent is not None]
    if not levels or not any(battery.state == "discharging" for battery in batteries):
        return []
    # One that is full still feeds the machine when another is empty.
    charge = max(levels)
    if charge >= WARM_CHARGE_PERCENT:
        return []
    return [("hot" if charge < HOT_CHARGE_PERCENT else "warm", f"battery at {charge:g}%, discharging")]


@lru_cache(maxsize=8)
def _layout(root: Path) -> tuple[tuple[_Zone, ...], tuple[_Clock, ...]]:
    """The zones with a limit, and the clocks; a power mode of nvpmodel caps clocks on purpose, so they say nothing."""
    tree = Tree(root)
    zones = []
    for folder in zone_folders(tree):
        trips = read_trips(tree, folder)
        limits = [trips[kind] for kind in ("passive", "hot") if kind in trips]
        if limits:
            zones.append(_Zone(tree.word(f"{folder}/type") or folder, f"{folder}/temp", min(limits)))
    folders = [] if tree.exists(MODE) else policy_folders(tree)
    highest = {folder: khz(tree, f"{folder}/cpuinfo_max_freq") for folder in folders}
    clocks = [_Clock(f"{folder}/scaling_max_freq", limit) for folder, limit in highest.items() if limit is not None]
    return tuple(zones), tuple(clocks)


SHARES = {"none": 1.0, "warm": 0.7, "hot": 0.4}
"""Of the full budget's FLOPs that a step may take at each level, before the device has to slow down by itself."""


def sustainable_share() -> tuple[float, str]:
    """The share of the full budget that this device should carry now, 0..1, and why it is less than 1.

    What `elit_edge.generate` takes as `pressure`.
    """
    now = pressure()
    return SHARES[now.level], "; ".join(now.reasons)
