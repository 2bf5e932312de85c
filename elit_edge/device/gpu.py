"""NVIDIA GPUs: names from the driver's files, which is quick, and the rest from NVML.

Source: NVIDIA's NVML API reference, and /proc/driver/nvidia as the driver's README describes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from elit_edge.device.facts import Gpu
from elit_edge.device.optional import optional_library, within
from elit_edge.device.tree import Tree, printable

GPUS = "proc/driver/nvidia/gpus"
NVML_SECONDS = 2.0


def read_gpus(tree: Tree) -> tuple[Gpu, ...]:
    """The GPUs that NVML knows; where it cannot be asked, the names that the driver states."""
    named = gpu_names(tree)
    found: tuple[Gpu, ...] | None = None
    if tree.here and (named or _has_driver(tree)):
        pynvml = optional_library(tree, "pynvml", "nvidia-ml-py")
        if pynvml is not None:
            found = within(tree, "NVML", NVML_SECONDS, lambda: _ask(tree, pynvml))
    if found is not None:
        return found
    return tuple(
        Gpu(name=name, memory_bytes=None, compute_capability=None, driver=None, power_limit_w=None) for name in named
    )


def gpu_names(tree: Tree) -> list[str]:
    """The models that the driver's files name, in the order of their bus addresses."""
    names = []
    for folder in tree.names(GPUS):
        for line in (tree.text(f"{GPUS}/{folder}/information") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and (name := printable(value)):
                names.append(name)
    return names


def _has_driver(tree: Tree) -> bool:
    # Windows and its Linux have no such files; there NVML itself has to say that it is missing.
    return tree.exists("dev/nvidiactl") or tree.exists("dev/dxg") or not tree.exists("proc")


@contextlib.contextmanager
def nvml(pynvml: Any) -> Iterator[list[Any]]:
    """The handles of all GPUs."""
    pynvml.nvmlInit()
    try:
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _ask(tree: Tree, pynvml: Any) -> tuple[Gpu, ...]:
    def known(subject: str, ask: Callable[..., Any], *handle: Any) -> Any | None:
        try:
            return ask(*handle)
        except pynvml.NVMLError as error:
            tree.note(f"NVML {subject}", str(error))
            return None

    with nvml(pynvml) as handles:
        driver = known("driver version", pynvml.nvmlSystemGetDriverVersion)
        gpus = []
        for handle in handles:
            memory = known("memory", pynvml.nvmlDeviceGetMemoryInfo, handle)
            capability = known("compute capability", pynvml.nvmlDeviceGetCudaComputeCapability, handle)
            limit_mw = known("power limit", pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            gpu = Gpu(
                name=_text(known("name", pynvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
                memory_bytes=(memory.total or None) if memory is not None else None,
                compute_capability="{}.{}".format(*capability) if capability else None,
                driver=_text(driver),
                power_limit_w=limit_mw / 1000 if limit_mw else None,
            )
            gpus.append(gpu)
    return tuple(gpus)


def _text(value: Any) -> str | None:
    # Older releases of the binding give bytes.
    return printable(value.decode() if isinstance(value, bytes) else value) if value else None
