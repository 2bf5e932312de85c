"""`elit-edge probe`: what this machine is, what is ready on it, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from elit_edge.device.facts import Cpu, Device, Memory, Speed

GIB = 2**30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything, as docs/probe.schema.json describes it.")
def command(as_json: bool) -> None:
    """Show this machine: processor, memory, GPUs, power, temperatures, runtimes, and measured speed (about 2 s)."""
    from elit_edge.device import probe

    device = probe()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(device, order="deterministic"), indent=1).decode())
        return
    console = Console()
    rows = [*_machine(device), *_sensors(device), *_measured(device.speed)]
    console.print(_table("", rows))
    runtimes = (
        (state.name, f"ready ({state.version})" if state.state == "ready" else f"{state.reason}; {state.remedy}")
        for state in device.runtimes
    )
    console.print(_table("Runtimes", runtimes))
    if device.notes:
        console.print(_table("Not known", (("", note) for note in device.notes)))


def _table(title: str, rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = title or None, "left"
    for name, words in rows:
        # Names of devices are foreign text: in a plain string rich would take [brackets] for its own markup.
        table.add_row(Text(name), Text(words))
    return table


def _machine(device: Device) -> Iterator[tuple[str, str]]:
    yield "device", device.name or "unknown"
    yield "system", ", ".join(part for part in (device.os, device.kernel, device.machine) if part) or "unknown"
    yield "processor", _cpu(device.cpu)
    yield "instructions", "unknown" if device.cpu.isa is None else " ".join(device.cpu.isa) or "none that matter here"
    yield "memory", _memory(device.memory)
    if device.container.kind:
        yield "container", device.container.kind
    for gpu in device.gpus:
        size = _gib(gpu.memory_bytes)
        more = (
            f"compute {gpu.compute_capability}" if gpu.compute_capability else "",
            f"driver {gpu.driver or 'unknown'}",
        )
        yield "GPU", ", ".join(part for part in (gpu.name, size, *more) if part)
    if device.jetson:
        words = (device.jetson.l4t and f"L4T {device.jetson.l4t}", device.jetson.power_mode)
        yield "Jetson", ", ".join(word for word in words if word) or "release and power mode unknown"
    if device.apple and device.apple.chip:
        yield "chip", device.apple.chip


def _sensors(device: Device) -> Iterator[tuple[str, str]]:
    power = device.power
    for battery in power.batteries:
        level = "level unknown" if battery.level_percent is None else f"{battery.level_percent:g}%"
        yield "battery", ", ".join(part for part in (level, battery.state) if part)
    yield "power", ", ".join(part for part in (power.source, power.profile) if part) or "source unknown"
    for rail in device.jetson.rails if device.jetson else ():
        yield f"rail {rail.name}", "unknown" if rail.power_w is None else f"{rail.power_w:.2f} W"
    warm = [zone for zone in device.thermal if zone.temperature_c is not None]
    warm.sort(key=lambda zone: -(zone.temperature_c or 0))
    words = [f"{zone.name} {zone.temperature_c:.0f} °C" for zone in warm[:3]]
    yield "warmest", ", ".join(words) or "no sensor to be read"
    clocks = [
        f"{clock.current_mhz:.0f} of {clock.max_mhz:.0f} MHz"
        for clock in device.frequencies
        if clock.current_mhz is not None and clock.max_mhz is not None
    ]
    yield "clocks", ", ".join(dict.fromkeys(clocks)) or "not to be read"


def _measured(speed: Speed | None) -> Iterator[tuple[str, str]]:
    from elit_edge.device.speed import BUSY_LOAD

    for rate in speed.matmul if speed else ():
        figure = "" if rate.gops is None else f"{rate.gops:g} Gop/s, {rate.side} x {rate.side} ({rate.library})"
        yield f"product {rate.precision}", figure or f"not measured: {rate.reason}"
    if speed:
        memory = speed.memory
        figure = "" if memory.copy_gb_s is None else f"{memory.copy_gb_s:g} GB/s copying, {memory.threads} threads"
        yield "bandwidth", figure or f"not measured: {memory.reason}"
        if speed.load_average is not None and speed.load_average >= BUSY_LOAD:
            yield "", f"measured on a busy machine (load {speed.load_average:g}): it can do more"


def _cpu(cpu: Cpu) -> str:
    kinds = [
        f"{kind.logical} {kind.kind} {kind.name or ''}".strip() + (f" {kind.max_mhz:.0f} MHz" if kind.max_mhz else "")
        for kind in cpu.cores
    ]
    usable = "usable CPUs unknown" if cpu.usable_cpus is None else f"{cpu.usable_cpus:g} CPUs usable"
    return "; ".join((cpu.model or "unknown", ", ".join(kinds) or "cores unknown", usable))


def _memory(memory: Memory) -> str:
    words = [f"{_gib(memory.total_bytes) or 'unknown'} in all", f"{_gib(memory.usable_bytes) or 'unknown'} usable"]
    if memory.limit_bytes is not None:
        words.append(f"limit {_gib(memory.limit_bytes)}")
    return ", ".join(words)


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.1f} GiB"
