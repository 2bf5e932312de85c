"""The power sensors (INA3221) of Jetson boards: hwmon since JetPack 5, iio before.

Source: NVIDIA's Jetson Linux Developer Guide, "Power and Thermal", and the kernel's hwmon/ina3221.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from elit_edge.device.tree import Tree

HIGHEST_MILLI = 1_000_000
TOTALS = ("VDD_IN", "POM_5V_IN")
"""The rails through which the whole module is fed, where a board has one."""


@dataclass(frozen=True)
class RailFiles:
    """Where a rail's power stands: in milliwatts, or as millivolts and milliamperes."""

    name: str
    files: tuple[str, ...]

    def power_w(self, tree: Tree) -> float | None:
        values = [tree.number(path, 0, HIGHEST_MILLI) for path in self.files]
        known = [value / 1000 for value in values if value is not None]
        if len(known) < len(values):
            return None
        return known[0] if len(known) == 1 else round(known[0] * known[1], 6)


def find_rails(tree: Tree) -> tuple[RailFiles, ...]:
    """The rails in the order of their sensors; unconnected channels ("NC") left out."""
    found = list(_hwmon(tree)) or list(_iio(tree))
    return tuple(rail for rail in found if rail.name != "NC")


def whole_board(rails: tuple[RailFiles, ...]) -> tuple[RailFiles, ...]:
    """The rails whose sum counts everything once."""
    totals = tuple(rail for rail in rails if rail.name in TOTALS)
    return totals or rails


def _hwmon(tree: Tree) -> Iterator[RailFiles]:
    folders = [f"sys/class/hwmon/{name}" for name in tree.names("sys/class/hwmon")]
    sensors = [folder for folder in folders if tree.word(f"{folder}/name") == "ina3221"]
    if not sensors:
        driver = "sys/bus/i2c/drivers/ina3221"
        chips = [f"{driver}/{chip}/hwmon" for chip in tree.names(driver)]
        sensors = [f"{chip}/{name}" for chip in chips for name in tree.names(chip)]
    for folder in sensors:
        for channel in (1, 2, 3):
            name = tree.word(f"{folder}/in{channel}_label")
            if name is not None and tree.exists(f"{folder}/curr{channel}_input"):
                yield RailFiles(name, (f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input"))


def _iio(tree: Tree) -> Iterator[RailFiles]:
    driver = "sys/bus/i2c/drivers/ina3221x"
    for chip in tree.names(driver):
        for device in (name for name in tree.names(f"{driver}/{chip}") if name.startswith("iio")):
            folder = f"{driver}/{chip}/{device}"
            for channel in (0, 1, 2):
                name = tree.word(f"{folder}/rail_name_{channel}")
                if name is not None:
                    yield RailFiles(name, (f"{folder}/in_power{channel}_input",))
