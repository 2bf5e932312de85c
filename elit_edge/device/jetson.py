"""What only a Jetson has: its L4T release, power mode and rails. jtop adds the JetPack release."""

from __future__ import annotations

import re

from elit_edge.device.facts import Jetson, Rail
from elit_edge.device.optional import optional_library, within
from elit_edge.device.rails import find_rails
from elit_edge.device.tree import Tree, printable

MODEL = "proc/device-tree/model"
RELEASE = "etc/nv_tegra_release"
MODE = "var/lib/nvpmodel/status"
JTOP_SECONDS = 1.0


def read_jetson(tree: Tree) -> Jetson | None:
    model = tree.word(MODEL)
    release = tree.word(RELEASE)
    if release is None and "jetson" not in (model or "").lower():
        return None
    rails = tuple(Rail(name=rail.name, power_w=rail.power_w(tree)) for rail in find_rails(tree))
    if not rails:
        tree.note("power rails", "no INA3221 sensor is to be seen")
    return Jetson(
        model=model,
        l4t=_l4t(release or ""),
        jetpack=_jetpack(tree) if tree.here else None,
        power_mode=read_power_mode(tree),
        rails=rails,
    )


def read_power_mode(tree: Tree) -> str | None:
    """The mode that nvpmodel set, by name where its configuration says it: "MAXN", "15W", else "mode 2"."""
    match = re.search(r"pmode:(\d{1,4})", tree.word(MODE) or "", re.ASCII)
    if match is None:
        return None
    number = int(match[1])
    names = re.findall(
        r"<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>", tree.text("etc/nvpmodel.conf") or "", re.ASCII
    )
    return next((printable(name) for found, name in names if int(found) == number), f"mode {number}")


def _l4t(release: str) -> str | None:
    match = re.search(r"R(\d{1,4}) \(release\), REVISION: ([\d.]{1,16})", release, re.ASCII)
    return f"{match[1]}.{match[2]}" if match else None


def _jetpack(tree: Tree) -> str | None:
    library = optional_library(tree, "jtop", "jetson-stats")
    if library is None:
        return None

    def ask() -> str | None:
        with library.jtop() as service:
            return printable(str(service.board["hardware"].get("Jetpack", "")))

    return within(tree, "jtop", JTOP_SECONDS, ask)
