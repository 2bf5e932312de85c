"""Whether it fits: memory and disk foreseen before work starts, and refused with figures where it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from elit_edge.budget import parameters
from elit_edge.device.control_group import read_control_group
from elit_edge.device.memory import read_memory
from elit_edge.device.tree import Tree
from elit_edge.errors import FitError
from elit_edge.manifest import Decoder, Manifest
from elit_edge.model_config import ModelConfig

FLOAT_BYTES, HALF_BYTES = 4, 2
EXPORT_BASE_BYTES, VERIFY_BASE_BYTES = 480 << 20, 600 << 20
"""torch, onnx-ir and the trace, whatever the model; and what the parity gate computes with."""
EXPORT_COPIES, RANGE_COPIES = 1.2, 0.3
"""Copies of the weights that an export holds at its peak: the checkpoint's, or those of the graph that is open; and
what looking at float16's range adds, which widens its weights beside the mapped file.
Measured on x86 with 6 to 680 million weights: docs/benchmarks.md."""
VERIFY_BATCH = 2
"""Samples of one call of the parity gate."""
CALIBRATION_COPIES = 6.0
"""Of a calibration and the process beside it that times all runtimes in both precisions. Measured with 675 million
weights: 5.9 (docs/benchmarks.md)."""
GRAPH_BYTES, BLOCK_BYTES = 16 << 10, 10 << 10
"""A graph file without its weights, and what each block adds to it."""
ENGINE_BASE_BYTES = 160 << 20
"""Kernels of two engines, in up to 16 profiles of some 8 MB."""
COREML_BITS = {"fp32": 32, "fp16": 16, "int8": 9, "w8a8": 9, "lut6": 7, "int4": 6, "lut4": 5}
"""Of a weight, with what belongs to it."""
RUN_BASE_BYTES = 132 << 20
RUN_COPIES, MAPPED_COPIES = 2.2, {"onnxruntime": 1.15}
"""Of the weights in float32: of a runtime that packs them its own way beside the mapped file, and of one that lets go
of each mapped matrix once it is packed. Measured with 6 to 680 million weights: docs/benchmarks.md."""
WIDENED = {"fp16": 2, "bf16": 2}
"""A CPU without 16-bit products holds such weights as float32."""
RUN_ACTIVATIONS = 150
"""Tensors of [tokens, width] that a pass holds for each sample."""
DECODE_COPIES = 1.5
"""What a runtime holds while it decodes, over what the graph's values alone do: docs/benchmarks.md."""


def export_memory_bytes(config: ModelConfig, *, check: bool, dtype: Literal["fp32", "fp16"] = "fp32") -> int:
    """Peak memory of an export, foreseen from the config alone."""
    copies = EXPORT_COPIES + (RANGE_COPIES if check and dtype == "fp16" else 0)
    weights = int(copies * FLOAT_BYTES * parameters(config))
    if not check:
        return EXPORT_BASE_BYTES + weights
    return VERIFY_BASE_BYTES + weights + VERIFY_BATCH * _activation_bytes(config)


def bundle_bytes(config: ModelConfig, dtype: Literal["fp32", "fp16"], budgets: int) -> int:
    """Size of the bundle without decoders, foreseen from the config and the number of graphs of fixed shapes."""
    each = FLOAT_BYTES if dtype == "fp32" else HALF_BYTES
    return each * parameters(config) + (3 + budgets) * (GRAPH_BYTES + config.depth * BLOCK_BYTES)


def calibration_memory_bytes(manifest: Manifest) -> int:
    """Peak memory of a calibration and its proof, all processes together."""
    return EXPORT_BASE_BYTES + int(CALIBRATION_COPIES * FLOAT_BYTES * parameters(manifest.model))


def engine_bytes(manifest: Manifest, precision: str) -> int:
    """Room that the engines of a precision take on disk, foreseen; measured: docs/benchmarks.md."""
    return manifest.files[manifest.graph("velocity", precision).weights].bytes + ENGINE_BASE_BYTES


def coreml_bytes(manifest: Manifest, variant: str, copies: int) -> int:
    """Room that Core ML packages of a variant take on disk, foreseen."""
    bits = COREML_BITS[variant]
    functions = 2 * len(manifest.budgets) * (GRAPH_BYTES + manifest.model.depth * BLOCK_BYTES)
    return copies * parameters(manifest.model) * bits // 8 + functions


def run_memory_bytes(manifest: Manifest, batch: int, runtime: str = "auto") -> int:
    """Peak memory of a process that generates `batch` pictures at once, where nothing was measured yet; with "auto" of
    the runtime that takes least."""
    weights = max(manifest.files[graph.weights].bytes * WIDENED.get(graph.precision, 1) for graph in manifest.graphs)
    copies = min(MAPPED_COPIES.values()) if runtime == "auto" else MAPPED_COPIES.get(runtime, RUN_COPIES)
    return RUN_BASE_BYTES + int(copies * weights) + batch * _activation_bytes(manifest.model)


def _activation_bytes(config: ModelConfig) -> int:
    """Of one sample in one pass."""
    return RUN_ACTIVATIONS * config.tokens * config.hidden_size * FLOAT_BYTES


def decoder_open_bytes(manifest: Manifest, decoder: Decoder) -> int:
    """What an open decoder holds, foreseen."""
    return int(RUN_COPIES * manifest.files[decoder.weights].bytes)


def decode_memory_bytes(decoder: Decoder, side: int, tiles: bool) -> int:
    """What decoding a picture of `side` latents a side takes beside the open decoder, whole or in tiles."""
    tile = min(side, decoder.tiling.latents) if tiles else side
    values = int(DECODE_COPIES * decoder.pixel_bytes * (decoder.factor * tile) ** 2)
    return values + 3 * FLOAT_BYTES * (decoder.factor * side) ** 2


def resident_bytes() -> int:
    """What this process holds already."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def amount(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def free_bytes() -> int | None:
    """Memory that this process may still take; None where the machine does not tell."""
    tree = Tree(Path("/"))
    return read_memory(tree, read_control_group(tree)).usable_bytes


def check_memory(needed_bytes: int, work: str, advice: str) -> None:
    """Refuse what this machine cannot hold now; nothing where it does not tell.

    Raises:
        FitError: it does not fit.
    """
    usable = free_bytes()
    if usable is not None and needed_bytes > usable:
        raise FitError(
            f"{work} needs about {amount(needed_bytes)} of memory, and {amount(usable)} are free here; {advice}"
        )


def check_disk(folder: Path, needed_bytes: int, work: str) -> None:
    """Refuse what the disk has no room for.

    Raises:
        FitError: it does not fit.
    """
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), None)
    if existing is None:
        return
    free = shutil.disk_usage(existing).free
    if needed_bytes > free:
        raise FitError(
            f"{work} needs about {amount(needed_bytes)} on disk, and {existing} has {amount(free)} free; "
            "free some space or choose another place"
        )
