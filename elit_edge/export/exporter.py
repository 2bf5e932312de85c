"""One checkpoint in, one bundle out: graphs, weights, decoders, parity gate, in a folder that appears whole."""

from __future__ import annotations

import errno
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from elit_edge.budget import velocity_work
from elit_edge.bundle_files import (
    BundleFiles,
    check_replaceable,
    file_entries,
    sha256_of,
    staged_folder,
    write_manifest,
)
from elit_edge.errors import BudgetError, BundleError, CheckpointError, ExportError
from elit_edge.export.model_graphs import Dtype, Report, trace_graphs, write_graphs, write_weights
from elit_edge.export.model_range import observe_range
from elit_edge.export.onnx_graphs import OPSET
from elit_edge.export.vae.exporting import export_decoder
from elit_edge.export.vae.source import PIXEL_CHANNELS, VaeSource, check_fits
from elit_edge.export.verify import SEED, Cases, reference_cases, verify
from elit_edge.export.verify_decoders import made_of
from elit_edge.fit import (
    FLOAT_BYTES,
    HALF_BYTES,
    bundle_bytes,
    check_disk,
    check_memory,
    export_memory_bytes,
    resident_bytes,
)
from elit_edge.ladder import static_budgets
from elit_edge.manifest import Budget, Decoder, Manifest, Provenance, SamplerDefaults
from elit_edge.model.checkpoint import Checkpoint
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import FloatArray
from elit_edge.sampling import GuidanceKind
from elit_edge.version import __version__

WEAK_SHARE = 16
"""The weak pass of the published settings keeps a sixteenth of the latents. Source: arXiv 2603.12245."""
DECODED = 2
"""Samples that decoders are checked on."""


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
    dtype: Dtype = "fp32",
    budgets: tuple[int, ...] = (),
    vaes: Sequence[VaeSource] = (),
    vae_dtype: Dtype | None = None,
    check: bool = True,
    force: bool = False,
    report: Report = lambda _stage, _share: None,
) -> Exported:
    """Write the bundle `target` (a folder NAME.elit).

    Args:
        checkpoint: from `read_checkpoint`.
        target: where the bundle shall stand.
        dtype: of weights and graphs. In fp16 what comes near its greatest number on the trajectories of the parity
            gate stays in float32; without the gate only what does so in any model.
        budgets: those that get a graph of fixed shapes, and that the parity gate looks at; empty for all, or for the
            powers of two where there are more than 16.
        vaes: decoders, from `read_vae`: at most one of each kind.
        vae_dtype: of their weights and graphs; None for `dtype`.
        check: hold the graphs to the parity gate; without it the manifest says unverified.
        force: replace what is there.
        report: progress.

    Raises:
        BundleError: `target` exists and is another bundle, or cannot be written.
        BudgetError: the model has not all budgets that were asked for, or is a plain SiT.
        CheckpointError: a VAE is not one for this model, or there are two of a kind.
        ExportError: the model could not be traced, float16 cannot hold it, or the disk is full.
        ParityError: a graph's numbers are not the model's; nothing is written.
        PictureError: a decoder makes no picture.
        FitError: the memory or the disk is too small; nothing was begun.
    """
    config = checkpoint.config
    if budgets and not config.is_elastic:
        raise BudgetError("a plain SiT has one budget alone; leave out --budgets")
    fixed = static_budgets(_ladder(checkpoint), budgets) if config.is_elastic else ()
    _check_decoders(vaes, checkpoint)
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
    wanted = _Wanted(checkpoint, provenance, dtype, fixed, tuple(vaes), vae_dtype or dtype, check)
    if not force and (present := wanted.present_at(target)):
        return Exported(present, fresh=False)
    name = f"exporting {checkpoint.path.name}"
    check_memory(
        export_memory_bytes(config, check=check, dtype=dtype) - resident_bytes(),
        name,
        "close other programs or use --no-verify",
    )
    decoders = sum(_decoder_bytes(vae, wanted.vae_dtype) for vae in vaes)
    check_disk(target.absolute().parent, bundle_bytes(config, dtype, len(fixed)) + decoders, name)
    if force:
        check_replaceable(target)
    try:
        with staged_folder(target, replace=force) as stage:
            manifest = _fill(stage, target, wanted, report)
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


@dataclass(frozen=True)
class _Wanted:
    """All that decides what a bundle is."""

    checkpoint: Checkpoint
    provenance: Provenance
    dtype: Dtype
    budgets: tuple[int, ...]
    vaes: tuple[VaeSource, ...]
    vae_dtype: Dtype
    check: bool

    def present_at(self, target: Path) -> Manifest | None:
        """The manifest at `target` if the same export made it."""
        if not target.exists():
            return None
        try:
            present = BundleFiles.open(target).manifest
        except BundleError:
            return None
        same = (
            (present.model, present.provenance) == (self.checkpoint.config, self.provenance)
            and present.precisions[0] == self.dtype
            and {graph.latents for graph in present.graphs if graph.latents} == set(self.budgets)
            and len(present.decoders) == len(self.vaes)
            and all(any(made_of(decoder, vae) for vae in self.vaes) for decoder in present.decoders)
            and all(decoder.precision == self.vae_dtype for decoder in present.decoders)
        )
        return present if same and (present.verification is not None or not self.check) else None


def _fill(stage: Path, target: Path, wanted: _Wanted, report: Report) -> Manifest:
    """Everything but the manifest itself; it comes back without the digests of the files."""
    checkpoint, dtype = wanted.checkpoint, wanted.dtype
    graphs = trace_graphs(checkpoint.config, dtype, wanted.budgets, report)
    tensors = write_weights(graphs, checkpoint, dtype, stage, report)
    config, ladder = checkpoint.config, _ladder(checkpoint)
    guidance: GuidanceKind = "ccfg" if config.is_elastic else "cfg"
    manifest = Manifest(
        name=target.name.removesuffix(".elit"),
        model=config,
        sample_space="pixels" if config.in_channels in PIXEL_CHANNELS else "latents",
        ladder=tuple(_rung(checkpoint, latents) for latents in ladder),
        graphs=tuple(graph.entry for graph in graphs),
        files={},
        sampler=SamplerDefaults(guidance=guidance, weak_latents=max(ladder[0], config.latents_per_group // WEAK_SHARE)),
        verification=None,
        provenance=wanted.provenance,
    )
    cases: tuple[Cases, ...] = ()
    if wanted.check:
        cases = reference_cases(checkpoint.model(), manifest, report=lambda share: report("reference", share))
    seen = None
    if dtype == "fp16" and cases:
        report("float16 range", 0)
        seen = observe_range(graphs, tensors, cases, stage)
        write_graphs(graphs, tensors, stage, seen.overflowing)
    else:
        write_graphs(graphs, tensors, stage)
    decoders = _decoders(wanted, stage, cases, report)
    manifest = msgspec.structs.replace(manifest, decoders=decoders)
    if not wanted.check:
        return manifest
    found = verify(BundleFiles(stage, manifest), cases, lambda share: report("verify", share))
    if seen:
        found = msgspec.structs.replace(found, headroom=round(seen.headroom, 1))
    return msgspec.structs.replace(manifest, verification=found)


def _check_decoders(vaes: Sequence[VaeSource], checkpoint: Checkpoint) -> None:
    kinds = [vae.kind for vae in vaes]
    for vae in vaes:
        check_fits(vae, checkpoint.config)
        if kinds.count(vae.kind) > 1:
            raise CheckpointError(f"two VAEs of one kind ({vae.layout}); a bundle holds one full and one fast decoder")


def _decoder_bytes(vae: VaeSource, dtype: Dtype) -> int:
    """The float32 weights; with fp16 those of both, since the graph that is narrowed stands beside it for a while."""
    values = sum(value.numel() for value in vae.module.parameters())
    return values * (FLOAT_BYTES if dtype == "fp32" else FLOAT_BYTES + HALF_BYTES)


def _decoders(wanted: _Wanted, stage: Path, cases: Sequence[Cases], report: Report) -> tuple[Decoder, ...]:
    config, dtype = wanted.checkpoint.config, wanted.vae_dtype
    shape = (config.in_channels, config.image_size, config.image_size)
    samples: FloatArray = cases[-1].samples if cases else NoiseStream(SEED, DECODED).draw(shape).astype("float32")
    kind: Literal["trajectories", "noise"] = "trajectories" if cases else "noise"
    return tuple(export_decoder(vae, config, stage, dtype, samples, kind, report) for vae in wanted.vaes)


def _ladder(checkpoint: Checkpoint) -> range:
    return range(checkpoint.trained_latents, checkpoint.config.latents_per_group + 1)


def _rung(checkpoint: Checkpoint, latents: int) -> Budget:
    work = velocity_work(checkpoint.config, latents)
    return Budget(
        latents=latents,
        velocity_flops=work.flops,
        weight_bytes=work.weight_bytes,
        activation_bytes=work.activation_bytes,
    )
