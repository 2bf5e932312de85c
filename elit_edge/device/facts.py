"""The facts of a device, as `elit-edge probe --json` prints them. Null means: not known here, never zero.

docs/probe.md says where each is read; docs/probe.schema.json is generated from these classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CoreKind(_Facts, frozen=True, kw_only=True):
    """The logical CPUs of one kind; `unknown` where kinds differ and nothing says which is faster."""

    kind: Literal["performance", "middle", "efficiency", "uniform", "unknown"]
    name: str | None
    logical: Positive
    max_mhz: float | None


class Cpu(_Facts, frozen=True, kw_only=True):
    """The processor, and how much of it this process may use."""

    model: str | None
    vendor: str | None
    cores: tuple[CoreKind, ...]
    """Fastest kind first."""
    logical: Positive | None
    physical: Positive | None
    affinity: Positive | None
    """Logical CPUs that this process may run on."""
    quota_cpus: float | None
    """CPU time a unit of time that the control group allows; null without a limit."""
    usable_cpus: float | None
    """The smaller one of affinity and quota."""
    isa: tuple[str, ...] | None
    """Extensions that all cores have, in the words of Linux's /proc/cpuinfo, except `neon` for asimd."""
    last_cache_bytes: Positive | None
    """The last level of cache, all its parts together."""


class Memory(_Facts, frozen=True, kw_only=True):
    """Main memory; on boards with an integrated GPU it is the GPU's as well."""

    total_bytes: Positive | None
    available_bytes: Count | None
    limit_bytes: Count | None
    """What the control group allows; null without a limit."""
    used_bytes: Count | None
    """What the control group holds of it, files that can be dropped left out."""
    swap_total_bytes: Count | None
    swap_free_bytes: Count | None

    @property
    def usable_bytes(self) -> int | None:
        """What a new allocation may take: available in the machine, and left under the limit."""
        left = None if self.limit_bytes is None else max(0, self.limit_bytes - (self.used_bytes or 0))
        known = [value for value in (self.available_bytes, left) if value is not None]
        return min(known, default=None)


class Gpu(_Facts, frozen=True, kw_only=True):
    """One NVIDIA GPU."""

    name: str
    memory_bytes: Positive | None
    compute_capability: str | None
    driver: str | None
    power_limit_w: float | None


class Rail(_Facts, frozen=True, kw_only=True):
    """A supply line with a power sensor."""

    name: str
    power_w: float | None


class Jetson(_Facts, frozen=True, kw_only=True):
    """What only a Jetson has."""

    model: str | None
    l4t: str | None
    jetpack: str | None
    """Known to jtop alone."""
    power_mode: str | None
    rails: tuple[Rail, ...]


class Apple(_Facts, frozen=True, kw_only=True):
    """What only a Mac has."""

    chip: str | None
    model: str | None


class Battery(_Facts, frozen=True, kw_only=True):
    """A battery that feeds the machine."""

    level_percent: float | None
    state: Literal["charging", "discharging", "full", "idle"] | None
    power_w: float | None


class Power(_Facts, frozen=True, kw_only=True):
    """What feeds the machine."""

    source: Literal["mains", "battery"] | None
    batteries: tuple[Battery, ...]
    profile: str | None
    """The platform's profile, such as `balanced`."""


class ThermalZone(_Facts, frozen=True, kw_only=True):
    """A temperature, and where the system begins to slow down (passive), is hot, and switches off (critical)."""

    name: str
    temperature_c: float | None
    passive_c: float | None
    hot_c: float | None
    critical_c: float | None


class Frequency(_Facts, frozen=True, kw_only=True):
    """CPUs that share a clock: now, at most by policy, at most by hardware."""

    cpus: tuple[int, ...]
    current_mhz: float | None
    limit_mhz: float | None
    max_mhz: float | None
    governor: str | None


class Container(_Facts, frozen=True, kw_only=True):
    """What stands between the process and the machine; `kind` is null where no container was recognised."""

    kind: Literal["docker", "podman", "kubernetes"] | None
    cgroup_version: Literal[1, 2] | None


class RuntimeState(_Facts, frozen=True, kw_only=True):
    """A runtime of elit-edge: ready with its version, or missing with why and how to get it."""

    name: str
    state: Literal["ready", "missing"]
    version: str | None
    reason: str | None
    remedy: str | None


class Rate(_Facts, frozen=True, kw_only=True):
    """Speed of a square matrix product in one precision, or why there is none."""

    precision: Literal["fp32", "fp16", "bf16", "int8"]
    gops: float | None
    """10^9 operations a second, two for each multiply-add; the median."""
    library: str | None
    side: Positive | None
    n: Count
    spread: float | None
    """Interquartile range over the median."""
    reason: str | None


class Bandwidth(_Facts, frozen=True, kw_only=True):
    """Speed of copying an array larger than the last cache, or why there is none."""

    copy_gb_s: float | None
    """10^9 bytes a second, read and written both counted; the median."""
    array_bytes: Positive | None
    threads: Positive | None
    n: Count
    spread: float | None
    """Interquartile range over the median."""
    reason: str | None


class Speed(_Facts, frozen=True, kw_only=True):
    """Short measurements."""

    matmul: tuple[Rate, ...]
    memory: Bandwidth
    load_average: float | None
    """Processes that wanted a CPU in the minute before; near or above one, the figures are those of a busy machine."""
    took_s: float


class Device(_Facts, frozen=True, kw_only=True):
    """All that a probe found."""

    schema_version: Literal[1] = 1
    identity: str
    """Changes when something that decides speed does; see `elit_edge.device.identity`."""
    name: str | None
    os: str | None
    kernel: str | None
    machine: str | None
    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]
    jetson: Jetson | None
    apple: Apple | None
    power: Power
    thermal: tuple[ThermalZone, ...]
    frequencies: tuple[Frequency, ...]
    container: Container
    runtimes: tuple[RuntimeState, ...]
    speed: Speed | None
    """Null when it was not measured."""
    notes: tuple[str, ...]
    """What could not be read or asked, and why."""
