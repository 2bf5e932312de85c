"""The probe: every reader of this room once, runtimes asked, speed measured."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgspec

from elit_edge.device.apple import apple_cpu, apple_facts, ask_sysctl
from elit_edge.device.control_group import read_container, read_control_group
from elit_edge.device.cpu import read_cpu, read_foreign_cpu
from elit_edge.device.facts import Apple, Cpu, Device, RuntimeState
from elit_edge.device.gpu import gpu_names, read_gpus
from elit_edge.device.jetson import read_jetson, read_power_mode
from elit_edge.device.memory import read_memory
from elit_edge.device.power import read_power
from elit_edge.device.speed import measure_speed
from elit_edge.device.system import read_kernel, read_machine, read_name, read_os
from elit_edge.device.thermal import read_frequencies, read_thermal
from elit_edge.device.tree import Tree
from elit_edge.runtimes.contract import Ready, Runtime
from elit_edge.runtimes.registry import all_runtimes, state_of


def probe(root: Path = Path("/"), *, measure: bool = True) -> Device:
    """What this machine is, what is ready on it, and how fast it is. Takes under 5 s; raises nothing of its own.

    Args:
        root: where /proc, /sys and /etc stand. Of another root than / the facts are read alone: runtimes and speed
            would be those of this machine.
        measure: whether to measure speed; without it a probe takes a fraction of a second.

    Returns:
        the facts. What could not be read is None, and `notes` says why.
    """
    tree = Tree(root)
    group = read_control_group(tree)
    machine = read_machine(tree)
    cpu, apple = _processor(tree, group.quota_cpus, machine, quick=False)
    memory = read_memory(tree, group)
    if measure and not tree.here:
        tree.note("runtimes and speed", f"not asked: {root} is the record of another machine")
    return Device(
        identity=identity(root),
        name=(apple and apple.model) or read_name(tree, cpu.model),
        os=read_os(tree),
        kernel=read_kernel(tree),
        machine=machine,
        cpu=cpu,
        memory=memory,
        gpus=read_gpus(tree),
        jetson=read_jetson(tree),
        apple=apple,
        power=read_power(tree),
        thermal=read_thermal(tree),
        frequencies=read_frequencies(tree),
        container=read_container(tree, group),
        runtimes=tuple(_state(name, runtime) for name, runtime in all_runtimes().items()) if tree.here else (),
        speed=measure_speed(cpu, memory) if measure and tree.here else None,
        notes=tree.notes,
    )


def identity(root: Path = Path("/")) -> str:
    """What decides speed and stays put, as 16 hexadecimal digits; milliseconds, and nothing is measured.

    The same in every process under the same limits: processor, cores by kind, instruction sets, usable CPUs, memory
    in GiB, GPUs, power mode and architecture. Temperatures, clocks, free memory and versions leave it as it is.
    """
    tree = Tree(root)
    group = read_control_group(tree)
    machine = read_machine(tree)
    cpu, _ = _processor(tree, group.quota_cpus, machine, quick=True)
    total = read_memory(tree, group).total_bytes
    deciding = (
        cpu.model,
        cpu.cores,
        cpu.isa,
        cpu.usable_cpus,
        None if total is None else round(total / 2**30),
        gpu_names(tree),
        read_power_mode(tree) or tree.word("sys/firmware/acpi/platform_profile"),
        machine,
    )
    return hashlib.sha256(msgspec.json.encode(deciding)).hexdigest()[:16]


def _processor(tree: Tree, quota: float | None, machine: str | None, *, quick: bool) -> tuple[Cpu, Apple | None]:
    if tree.here and sys.platform == "darwin":
        values = ask_sysctl(tree)
        return apple_cpu(values), apple_facts(values)
    if tree.here and not quick and not tree.exists("proc/cpuinfo"):
        return read_foreign_cpu(tree), None
    return read_cpu(tree, quota, machine), None


def _state(name: str, runtime: Runtime) -> RuntimeState:
    found = state_of(runtime)
    if isinstance(found, Ready):
        return RuntimeState(name=name, state="ready", version=found.version, reason=None, remedy=None)
    return RuntimeState(name=name, state="missing", version=None, reason=found.reason, remedy=found.remedy)
