"""One VAE in, one decoder of a bundle out: its graph, its weights, and what was seen of both."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from elit_edge.bundle_files import DECODER_FOLDER
from elit_edge.errors import PictureError
from elit_edge.export.float16 import FP16_GREATEST
from elit_edge.export.half import left_wide, narrow, stored_halves
from elit_edge.export.onnx_graphs import bind_weights
from elit_edge.export.peaks import Watched, floating_nodes
from elit_edge.export.vae.checking import check_parity, measure_tiling
from elit_edge.export.vae.graph import FREE, LATENTS, trace_decoder
from elit_edge.export.vae.memory import live_bytes
from elit_edge.export.vae.source import VaeSource, check_fits
from elit_edge.export.weights_file import write_tensors, write_weights
from elit_edge.manifest import Decoder, DecoderParity
from elit_edge.model_config import ModelConfig
from elit_edge.runtimes.contract import FloatArray

Report = Callable[[str, float], None]


def export_decoder(
    vae: VaeSource,
    config: ModelConfig,
    folder: Path,
    precision: Literal["fp32", "fp16"],
    latents: FloatArray,
    latents_kind: Literal["trajectories", "noise"],
    report: Report,
) -> Decoder:
    """Write `decoders/KIND.onnx` and `decoders/KIND.safetensors`, and hold them to PyTorch.

    Args:
        vae: from `read_vae`.
        config: of the model whose samples are decoded.
        folder: of the bundle.
        precision: of the graph. In fp16, nodes with too little head-room on these latents compute in float32.
        latents: [N, C, S, S] float32, as the model makes them.
        latents_kind: where they came from.
        report: progress.

    Raises:
        CheckpointError: the VAE does not decode what the model makes.
        ExportError: the graph could not be traced, or fp16 cannot hold a weight.
        ParityError: the graph's pictures are not the VAE's.
        PictureError: the VAE makes no picture of the latents.
    """
    check_fits(vae, config)
    place = folder / DECODER_FOLDER
    place.mkdir(exist_ok=True)
    report("decoder", 0)
    model = trace_decoder(vae)
    area = vae.factor**2 * config.image_size**2
    sizes = dict.fromkeys(FREE.values(), config.image_size) | {FREE[0]: 1}
    pixel_bytes = math.ceil(live_bytes(model.graph, sizes) / area)
    if precision == "fp32":
        graph = _write(vae, model, place)
        left, headroom = 0, None
    else:
        with tempfile.TemporaryDirectory(prefix=".wide-", dir=folder) as wide:
            graph, left, headroom = _narrowed(vae, _write(vae, model, Path(wide)), place, latents)
    worst = check_parity(graph, precision, vae, latents, lambda share: report("decoder", share))
    return Decoder(
        kind=vae.kind,
        layout=vae.layout,
        precision=precision,
        path=f"{DECODER_FOLDER}/{graph.name}",
        weights=f"{DECODER_FOLDER}/{_weights(graph).name}",
        scale=vae.scale,
        shift=vae.shift,
        factor=vae.factor,
        left_wide=left,
        pixel_bytes=pixel_bytes,
        parity=DecoderParity(cases=len(latents), latents=latents_kind, psnr_db=round(worst, 1), headroom=headroom),
        tiling=measure_tiling(graph, vae, latents[:1]),
        source=vae.name,
        source_sha256=vae.sha256,
    )


def _weights(graph: Path) -> Path:
    return graph.with_suffix(".safetensors")


def _write(vae: VaeSource, model: ir.Model, folder: Path) -> Path:
    """The float32 graph, over its own file of weights."""
    graph = folder / f"{vae.kind}.onnx"
    names = {str(value.name) for value in model.graph.inputs} - {LATENTS}
    bind_weights(model, write_weights(_weights(graph), names, vae.module.state_dict(), lambda _: None))
    ir.save(model, graph)
    return graph


def _narrowed(vae: VaeSource, wide: Path, folder: Path, latents: FloatArray) -> tuple[Path, int, float]:
    """The fp16 graph of a float32 one, how many of its nodes stay in float32, and the head-room of the others."""
    watched = Watched(wide)
    try:
        for z in vae.unscaled(latents):
            watched.run({LATENTS: z[None]})
    except FloatingPointError as error:
        raise PictureError(
            f"{error} of the decoder is not finite in float32; {vae.name} is no VAE for what this model makes"
        ) from error
    model = ir.load(wide)
    overflowing = watched.peaks.overflowing(model.graph)
    left = left_wide(model.graph, overflowing)
    most = max(watched.peaks.of(node) for node in floating_nodes(model.graph) if node not in left)
    graph = folder / wide.name
    narrow(model, "fp16", write_tensors(_weights(graph), stored_halves([model], "fp16"), lambda _: None), overflowing)
    ir.save(model, graph)
    return graph, len(left), round(FP16_GREATEST / most, 2)
