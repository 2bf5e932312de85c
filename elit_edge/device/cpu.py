"""The processor from Linux's /proc/cpuinfo and /sys/devices/system/cpu; from py-cpuinfo where neither is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import msgspec

from elit_edge.device.cpu_words import IMPLEMENTERS, PARTS, known_isa
from elit_edge.device.facts import CoreKind, Cpu
from elit_edge.device.optional import optional_library
from elit_edge.device.tree import Tree, cpu_list, integer, printable

CPUS = "sys/devices/system/cpu"
HIGHEST_KHZ = 20_000_000
X86_MACHINES = ("x86_64", "amd64", "i386", "i686")


@dataclass(frozen=True)
class _Core:
    """One logical CPU."""

    family: tuple[int, int] | str
    """Implementer and part on ARM; the name of a kind on hybrid x86, else empty."""
    max_khz: int | None
    capacity: int | None


def read_cpu(tree: Tree, quota_cpus: float | None, machine: str | None) -> Cpu:
    """The facts of `tree`; `machine` is what the process runs as, which under emulation is not what the files say."""
    text = tree.text("proc/cpuinfo")
    blocks = _blocks(text or "")
    if _is_foreign(blocks, machine):
        tree.note("proc/cpuinfo", f"describes another processor than the {machine} that this process runs on")
        blocks = []
    cpus = [block for block in blocks if integer(block.get("processor", "")) is not None]
    first = cpus[0] if cpus else {}
    kinds = _kinds(tree, cpus)
    names = " + ".join(dict.fromkeys(kind.name for kind in kinds if kind.name))
    hardware = next((block["Hardware"] for block in blocks if "Hardware" in block), "")
    implementer = _hexadecimal(first.get("CPU implementer"))
    online = cpu_list(tree.text(f"{CPUS}/online"))
    return with_usable(
        Cpu(
            model=printable(first.get("model name", "")) or printable(hardware) or names or None,
            vendor=printable(first.get("vendor_id", "")) or IMPLEMENTERS.get(implementer or 0),
            cores=kinds,
            logical=len(online or cpus) or (os.cpu_count() if tree.here else None),
            physical=_physical(cpus),
            affinity=_affinity(tree),
            quota_cpus=quota_cpus,
            usable_cpus=None,
            isa=_isa(blocks, machine),
            last_cache_bytes=_last_cache(tree),
        )
    )


def read_foreign_cpu(tree: Tree) -> Cpu:
    """What py-cpuinfo finds where there is no /proc: about a second, for a probe alone."""
    library = optional_library(tree, "cpuinfo", "py-cpuinfo")
    found = library.get_cpu_info() if library is not None else {}
    flags = found.get("flags")
    size = found.get("l3_cache_size")
    cpu = Cpu(
        model=printable(str(found.get("brand_raw", ""))),
        vendor=printable(str(found.get("vendor_id_raw", ""))),
        cores=(),
        logical=os.cpu_count(),
        physical=None,
        affinity=None,
        quota_cpus=None,
        usable_cpus=None,
        isa=known_isa(flags) if flags else None,
        last_cache_bytes=size if isinstance(size, int) and size > 0 else None,
    )
    return with_usable(cpu)


def with_usable(cpu: Cpu) -> Cpu:
    """The facts completed by the smaller one of affinity and quota."""
    known = [float(value) for value in (cpu.affinity or cpu.logical, cpu.quota_cpus) if value]
    return msgspec.structs.replace(cpu, usable_cpus=min(known, default=None))


def _blocks(text: str) -> list[dict[str, str]]:
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":")[::2] for line in block.splitlines() if ":" in line)
        found.append({key.strip(): value.strip() for key, value in pairs})
    return [block for block in found if block]


def _is_foreign(blocks: list[dict[str, str]], machine: str | None) -> bool:
    is_x86 = any("vendor_id" in block for block in blocks)
    is_arm = any("CPU implementer" in block for block in blocks)
    if machine is None or is_x86 == is_arm:
        return False
    return is_x86 != (machine.lower() in X86_MACHINES)


def _isa(blocks: list[dict[str, str]], machine: str | None) -> tuple[str, ...] | None:
    named = [block.get("flags", block.get("Features", "")).split() for block in blocks]
    flags = [set(words) for words in named if words]
    if flags:
        return known_isa(set.intersection(*flags))
    # Every 64-bit ARM processor has NEON; nothing more is certain without a file that says so.
    return ("neon",) if machine in ("aarch64", "arm64") else None


def _kinds(tree: Tree, cpus: list[dict[str, str]]) -> tuple[CoreKind, ...]:
    performance = cpu_list(tree.text("sys/devices/cpu_core/cpus")) or ()
    efficiency = cpu_list(tree.text("sys/devices/cpu_atom/cpus")) or ()
    hybrid = {**dict.fromkeys(performance, "performance"), **dict.fromkeys(efficiency, "efficiency")}
    groups: dict[object, list[_Core]] = {}
    for block in cpus:
        core = _core(tree, block, hybrid)
        # Cores of one x86 kind may boost to slightly different clocks; on ARM another clock is another kind.
        key = core.family if isinstance(core.family, str) else (core.family, core.max_khz)
        groups.setdefault(key, []).append(core)
    ordered, order_is_known = _fastest_first(list(groups.values()))
    kinds = []
    for index, group in enumerate(ordered):
        clocks = [core.max_khz for core in group if core.max_khz is not None]
        family = group[0].family
        kind = CoreKind(
            kind=_kind(index, len(ordered)) if order_is_known else "unknown",
            name=None if isinstance(family, str) else PARTS.get(family, f"part {family[0]:#04x}:{family[1]:#05x}"),
            logical=len(group),
            max_mhz=max(clocks) / 1000 if clocks else None,
        )
        kinds.append(kind)
    return tuple(kinds)


def _core(tree: Tree, block: dict[str, str], hybrid: dict[int, str]) -> _Core:
    index = int(block["processor"])
    implementer, part = _hexadecimal(block.get("CPU implementer")), _hexadecimal(block.get("CPU part"))
    arm = (implementer, part) if implementer is not None and part is not None else None
    return _Core(
        family=arm or hybrid.get(index, ""),
        max_khz=tree.number(f"{CPUS}/cpu{index}/cpufreq/cpuinfo_max_freq", 1, HIGHEST_KHZ),
        capacity=tree.number(f"{CPUS}/cpu{index}/cpu_capacity", 1),
    )


def _fastest_first(groups: list[list[_Core]]) -> tuple[list[list[_Core]], bool]:
    """The groups in order of speed, and whether anything says what that order is."""
    firsts = [group[0] for group in groups]
    if all(isinstance(core.family, str) and core.family for core in firsts):
        return sorted(groups, key=lambda group: group[0].family != "performance"), True
    if all(core.capacity for core in firsts):
        return sorted(groups, key=lambda group: -(group[0].capacity or 0)), True
    if all(core.max_khz for core in firsts):
        return sorted(groups, key=lambda group: -(group[0].max_khz or 0)), True
    return groups, len(groups) == 1


def _kind(index: int, count: int) -> Literal["performance", "middle", "efficiency", "uniform"]:
    if count == 1:
        return "uniform"
    if index == 0:
        return "performance"
    return "efficiency" if index == count - 1 else "middle"


def _physical(cpus: list[dict[str, str]]) -> int | None:
    pairs = {(block.get("physical id"), block["core id"]) for block in cpus if "core id" in block}
    if pairs:
        return len(pairs)
    # ARM cores of phones, boards and servers in use run one thread each.
    return len(cpus) or None if any("CPU implementer" in block for block in cpus) else None


def _affinity(tree: Tree) -> int | None:
    for line in (tree.text("proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "Cpus_allowed_list":
            return len(cpu_list(value) or ()) or None
    return None


def _last_cache(tree: Tree) -> int | None:
    """All parts of the last level together, a part that CPUs share counted once."""
    total, seen, last = 0, set(), 0
    for cpu in (name for name in tree.names(CPUS) if name.startswith("cpu") and name[3:].isdecimal()):
        if int(cpu[3:]) in seen:
            continue
        seen.add(int(cpu[3:]))
        level, size, shared = _largest_cache(tree, f"{CPUS}/{cpu}/cache")
        seen.update(shared)
        if level > last:
            total, last = 0, level
        total += size if level == last else 0
    return total or None


def _largest_cache(tree: Tree, folder: str) -> tuple[int, int, tuple[int, ...]]:
    """Level, bytes and the CPUs of the last cache that holds data; level 0 if nothing is known."""
    found: tuple[int, int, tuple[int, ...]] = (0, 0, ())
    for index in tree.names(folder):
        level = tree.number(f"{folder}/{index}/level", 1, 9) if index.startswith("index") else None
        size = (tree.word(f"{folder}/{index}/size") or "").removesuffix("K")
        kilobytes = integer(size, 1, 1 << 30)
        if level is not None and kilobytes is not None and level > found[0]:
            found = (level, kilobytes * 1024, cpu_list(tree.text(f"{folder}/{index}/shared_cpu_list")) or ())
    return found


def _hexadecimal(text: str | None) -> int | None:
    try:
        number = int(text or "", 16)
    except ValueError:
        return None
    return number if 0 <= number <= 0xFFFF else None
