"""Whether an engine opens here: what it was compiled by and for, against what is here, before a byte of it is read."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from elit_edge.manifest import Engine
from elit_edge.runtimes.tensorrt_.cuda import Gpu
from elit_edge.runtimes.tensorrt_.library import Library


@dataclass(frozen=True)
class Here:
    """The side of this machine."""

    library: str
    version: str
    platform: str
    gpu: Gpu

    def words(self) -> str:
        return (
            f"{self.library} {self.version} on {self.platform}, {self.gpu.name} of compute capability "
            f"{self.gpu.compute_capability}, CUDA {self.gpu.driver}"
        )


def platform_name() -> str:
    """System and processor: "linux x86_64", "win32 amd64"."""
    return f"{sys.platform} {platform.machine().lower()}"


def here(library: Library, gpu: Gpu) -> Here:
    return Here(library.name, library.version, platform_name(), gpu)


def differences(engine: Engine, at: Here) -> list[str]:
    """Every fact in which an engine and this machine differ; none: it can be opened.

    Engines open in the very version that compiled them, on its platform, on GPUs of the compute capabilities they
    hold, under a driver of the same CUDA generation or a newer one. Source: TensorRT's documentation on engine
    compatibility.
    """
    found = []
    if engine.version != at.version:
        found.append(f"compiled by {engine.library} {engine.version}, here is {at.version}")
    if engine.platform != at.platform:
        found.append(f"compiled for {engine.platform}, here is {at.platform}")
    if at.gpu.compute_capability not in engine.compute_capabilities:
        wanted = ", ".join(engine.compute_capabilities)
        found.append(f"compiled for compute capability {wanted}, {at.gpu.name} has {at.gpu.compute_capability}")
    if engine.driver is not None and _generation(at.gpu.driver) < _generation(engine.driver):
        found.append(f"compiled under CUDA {engine.driver}, the driver here knows {at.gpu.driver}")
    return found


def _generation(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


def rebuild_command(folder: object, library: str, precision: str) -> str:
    """What a person types to compile again, on this machine."""
    return f"elit-edge compile {folder} --target {library} --precision {precision}"
