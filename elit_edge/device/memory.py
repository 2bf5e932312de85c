"""Main memory and swap."""

from __future__ import annotations

from elit_edge.device.control_group import ControlGroup
from elit_edge.device.facts import Memory
from elit_edge.device.optional import optional_library
from elit_edge.device.tree import LARGEST_NUMBER, Tree, integer


def read_memory(tree: Tree, group: ControlGroup) -> Memory:
    text = tree.text("proc/meminfo")
    found = _from_psutil(tree) if text is None and tree.here else _from_meminfo(text or "")
    return Memory(
        total_bytes=found.get("MemTotal") or None,
        available_bytes=found.get("MemAvailable"),
        limit_bytes=group.memory_limit_bytes,
        used_bytes=group.memory_used_bytes,
        swap_total_bytes=found.get("SwapTotal"),
        swap_free_bytes=found.get("SwapFree"),
    )


def _from_meminfo(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        kilobytes = integer(value.removesuffix("kB"), high=LARGEST_NUMBER // 1024)
        if kilobytes is not None:
            found[key] = kilobytes * 1024
    return found


def _from_psutil(tree: Tree) -> dict[str, int]:
    psutil = optional_library(tree, "psutil", "psutil")
    if psutil is None:
        return {}
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {"MemTotal": main.total, "MemAvailable": main.available, "SwapTotal": swap.total, "SwapFree": swap.free}
