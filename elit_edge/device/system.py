"""What the machine and its system are called."""

from __future__ import annotations

import platform
import shlex
import sys

from elit_edge.device.cpu import X86_MACHINES
from elit_edge.device.tree import Tree, printable

MODELS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
BUILD = "system/build.prop"


def read_machine(tree: Tree) -> str | None:
    """The architecture that processes run as: of this machine from the interpreter, of a record from its files."""
    if tree.here:
        return platform.machine() or None
    text = tree.text("proc/cpuinfo") or ""
    if "CPU implementer" in text:
        return "aarch64" if "CPU architecture: 8" in text else "armv7l"
    return X86_MACHINES[0] if "vendor_id" in text else None


def read_name(tree: Tree, cpu_model: str | None) -> str | None:
    """The board, phone or computer; where nothing names it, its processor."""
    board = next((name for path in MODELS if (name := tree.word(path))), None)
    product = _properties(tree, BUILD).get("ro.product.system.model")
    vendor, model = (tree.word(f"sys/devices/virtual/dmi/id/{part}") for part in ("sys_vendor", "product_name"))
    return board or product or (f"{vendor} {model}" if vendor and model else model) or cpu_model


def read_os(tree: Tree) -> str | None:
    android = _properties(tree, BUILD).get("ro.build.version.release")
    if android:
        return f"Android {android}"
    if tree.here and sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    release = _properties(tree, "etc/os-release") or _properties(tree, "usr/lib/os-release")
    if release.get("PRETTY_NAME"):
        return release["PRETTY_NAME"]
    if tree.exists("system/bin/app_process") or tree.exists(BUILD):
        return "Android"
    return platform.system() or None if tree.here else None


def read_kernel(tree: Tree) -> str | None:
    return tree.word("proc/sys/kernel/osrelease") or (platform.release() or None if tree.here else None)


def _properties(tree: Tree, path: str) -> dict[str, str]:
    """The lines KEY=VALUE of a file, quotes taken off."""
    found = {}
    for line in (tree.text(path) or "").splitlines():
        key, equals, value = line.partition("=")
        word = printable(_unquoted(value)) if equals else None
        if word is not None:
            found[key.strip()] = word
    return found


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value)) if value[:1] in ("'", '"') else value
    except ValueError:
        return value
