"""One checkpoint in, one bundle out: graphs, weights, parity gate, manifest, in a folder that appears whole."""

from __future__ import annotations

import errno
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir

from elit_edge.budget import flops
from elit_edge.bundle_files import (
    GRAPH_FOLDER,
    BundleFiles,
    check_replaceable,
    file_entries,
    sha256_of,
    staged_folder,
    write_manifest,
)
from elit_edge.errors import BundleError, ExportError
from elit_edge.export.onnx_graphs import (
    INPUTS,
    OPSET,
    bind_weights,
    role_graph,
    specialise,
    take_transposed_weights,
    trace,
)
from elit_edge.export.verify import verify
from elit_edge.export.weights_file import write_weights
from elit_edge.fit import bundle_bytes, check_disk, check_memory, export_memory_bytes, resident_bytes
from elit_edge.manifest import (
    Budget,
    Graph,
    Manifest,
    Provenance,
    Role,
    SamplerDefaults,
    TensorSpec,
)
from elit_edge.model.checkpoint import Checkpoint
from elit_edge.model.transformer import constants
from elit_edge.model_config import ModelConfig
from elit_edge.sampling import GuidanceKind
from elit_edge.version import __version__

WEIGHTS_FILE = "weights.safetensors"
"""Beside the graphs: ONNX external data may not leave the folder of the graph."""
PIXEL_CHANNELS = (1, 3)

Report = Callable[[str, float], None]
"""Told the stage and the share of it that is done, 0..1."""

ROLES: tuple[Role, ...] = ("condition", "velocity", "model")
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.INT64: "int64"}


@dataclass(frozen=True)
class Exported:
    """What an export left at its target."""

    manifest: Manifest
    fresh: bool
    """False: the bundle was there already, made from the same bytes by the same versions."""


def export(
    checkpoint: Checkpoint,
    target: Path,
    *,
    force: bool = False,
    check: bool = True,
    report: Report = lambda _stage, _share: None,
) -> Exported:
    """Write the bundle `target` (a folder NAME.elit).

    Args:
        checkpoint: from `read_checkpoint`.
        target: where the bundle shall stand.
        force: replace what is there.
        check: hold the graphs to the parity gate; without it the manifest says unverified.
        report: progress.

    Raises:
        BundleError: `target` exists and is another bundle, or cannot be written.
        ExportError: the model could not be traced, or the disk is full.
        ParityError: a graph's numbers are not the model's; nothing is written.
        FitError: the memory or the disk is too small; nothing was begun.
    """
    report("digest", 0)
    provenance = Provenance(
        source=checkpoint.path.name,
        source_sha256=sha256_of(checkpoint.path),
        elit_edge=__version__,
        torch=importlib.metadata.version("torch"),
        onnx_ir=importlib.metadata.version("onnx_ir"),
        onnxscript=importlib.metadata.version("onnxscript"),
        opset=OPSET,
    )
    if not force and (present := _up_to_date(target, checkpoint.config, provenance, check)):
        return Exported(present, fresh=False)
    name = f"exporting {checkpoint.path.name}"
    check_memory(
        export_memory_bytes(checkpoint.config, check=check) - resident_bytes(),
        name,
        "close other programs or use --no-verify",
    )
    check_disk(target.absolute().parent, bundle_bytes(checkpoint.config), name)
    if force:
        check_replaceable(target)
    try:
        with staged_folder(target, replace=force) as stage:
            graphs = _write_graphs(checkpoint, stage, report)
            manifest = _manifest(checkpoint, target, graphs, provenance)
            if check:
                found = verify(BundleFiles(stage, manifest), checkpoint.model(), lambda share: report("verify", share))
                manifest = msgspec.structs.replace(manifest, verification=found)
            report("seal", 0)
            manifest = msgspec.structs.replace(manifest, files=file_entries(stage))
            write_manifest(stage, manifest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(
                f"no room left at {target.parent}; free some space and export again; nothing was kept"
            ) from error
        raise ExportError(f"cannot write {target}: {error}") from error
    return Exported(manifest, fresh=True)


def _up_to_date(target: Path, config: ModelConfig, provenance: Provenance, check: bool) -> Manifest | None:
    """The manifest at `target` if the same export made it."""
    if not target.exists():
        return None
    try:
        present = BundleFiles.open(target).manifest
    except BundleError:
        return None
    same = (present.model, present.provenance) == (config, provenance)
    return present if same and (present.verification is not None or not check) else None


def _write_graphs(checkpoint: Checkpoint, stage: Path, report: Report) -> tuple[Graph, ...]:
    config = checkpoint.config
    report("trace", 0)
    traced = trace(config)
    roles = {role: role_graph(traced, role, config) for role in ROLES}
    for model in roles.values():
        take_transposed_weights(model)
    models: list[tuple[Role, int | None, ir.Model]] = [(role, None, model) for role, model in roles.items()]
    budgets = _ladder(checkpoint)
    if config.is_elastic:
        for done, latents in enumerate(budgets):
            report("specialise", done / len(budgets))
            models.append(("velocity", latents, specialise(roles["velocity"], latents)))
    folder = stage / GRAPH_FOLDER
    folder.mkdir()
    weights = {**checkpoint.weights, **constants(config)}
    values = {str(value.name) for _, _, model in models for value in model.graph.inputs}
    names = {name for name in values if name not in {value for inputs in INPUTS.values() for value in inputs}}
    written, total = 0, 4 * sum(tensor.numel() for tensor in weights.values())

    def advance(count: int) -> None:
        nonlocal written
        written += count
        report("weights", written / total)

    tensors = write_weights(folder / WEIGHTS_FILE, names, weights, advance)
    return tuple(_write_graph(role, latents, model, tensors, stage) for role, latents, model in models)


def _write_graph(
    role: Role, latents: int | None, model: ir.Model, tensors: dict[str, ir.ExternalTensor], stage: Path
) -> Graph:
    bind_weights(model, tensors)
    name = role if latents is None else f"{role}_latents_{latents:02d}"
    path = f"{GRAPH_FOLDER}/{name}.onnx"
    ir.save(model, stage / path)
    return Graph(
        role=role,
        precision="fp32",
        latents=latents,
        path=path,
        weights=f"{GRAPH_FOLDER}/{WEIGHTS_FILE}",
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorSpec(name=str(value.name), dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]


def _ladder(checkpoint: Checkpoint) -> range:
    return range(checkpoint.trained_latents, checkpoint.config.latents_per_group + 1)


def _manifest(checkpoint: Checkpoint, target: Path, graphs: tuple[Graph, ...], provenance: Provenance) -> Manifest:
    config, least = checkpoint.config, checkpoint.trained_latents
    guidance: GuidanceKind = "ccfg" if config.is_elastic else "cfg"
    return Manifest(
        name=target.name.removesuffix(".elit"),
        model=config,
        sample_space="pixels" if config.in_channels in PIXEL_CHANNELS else "latents",
        ladder=tuple(Budget(latents=j, velocity_flops=flops(config, j).velocity) for j in _ladder(checkpoint)),
        graphs=graphs,
        files={},
        sampler=SamplerDefaults(guidance=guidance, weak_latents=least),
        verification=None,
        provenance=provenance,
    )
