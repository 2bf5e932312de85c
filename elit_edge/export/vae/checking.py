"""A decoder's graph held to PyTorch, and to itself in tiles, on latents of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from elit_edge.decoding import decode_in_tiles
from elit_edge.errors import ExportError, ParityError, PictureError
from elit_edge.export.vae.graph import LATENTS
from elit_edge.export.vae.source import VaeSource
from elit_edge.manifest import Tiling
from elit_edge.parity import DECODER_GATE_DB, EXACT_DB, psnr_db
from elit_edge.runtimes.contract import FloatArray
from elit_edge.runtimes.onnxruntime_.session import inference_session

LEAST_TILE, MOST_TILE = 16, 64
OVERLAP = 4
"""A tile shares that part of its side with the next one."""

Decode = Callable[[FloatArray], FloatArray]


def open_decoder(graph: Path) -> Decode:
    """The graph on ONNX Runtime: z [B, C, h, w] -> pixels [B, 3, f·h, f·w], float32.

    Raises:
        ExportError: ONNX Runtime refuses it.
    """
    try:
        session = inference_session(graph, None, planning=False)
    except RuntimeError as error:
        raise ExportError(f"ONNX Runtime refuses the decoder {graph.name}: {error}") from error

    def decode(z: FloatArray) -> FloatArray:
        pixels: FloatArray = session.run(None, {LATENTS: z})[0]
        return pixels

    return decode


def check_parity(
    graph: Path,
    precision: str,
    vae: VaeSource,
    samples: FloatArray,
    report: Callable[[float], None] = lambda _: None,
) -> float:
    """Hold a decoder's graph to its gate, a sample at a time.

    Args:
        graph: the ONNX file.
        precision: of its numbers, one of `DECODER_GATE_DB`.
        vae: what it was made of.
        samples: [N, C, S, S] float32, as the model makes them.
        report: told the share done, 0..1.

    Returns:
        PSNR of the worst picture in dB, at most `EXACT_DB`.

    Raises:
        ParityError: a picture is too far from PyTorch's, or of another size.
        PictureError: PyTorch itself makes no picture of a sample.
    """
    decode, worst = open_decoder(graph), EXACT_DB
    for place, z in enumerate(_singly(vae, samples)):
        right = vae.decode(z)
        _check_picture(right, f"{vae.name} makes of sample {place}")
        found = decode(z)
        if found.shape != right.shape:
            raise ParityError(f"decoder {graph.name} gives pictures {found.shape}, PyTorch {right.shape}")
        worst = min(worst, psnr_db(found, right))
        report((place + 1) / len(samples))
    gate = DECODER_GATE_DB[precision]
    if not worst >= gate:
        raise ParityError(
            f"decoder {graph.name} falls below {gate:g} dB against PyTorch: {worst:.1f} dB on the worst of "
            f"{len(samples)} samples. The graph does not compute what {vae.name} does"
        )
    return worst


def measure_tiling(graph: Path, vae: VaeSource, samples: FloatArray) -> Tiling:
    """What decoding in tiles changes: the same graph, whole and in tiles. Arguments as of `check_parity`."""
    decode = open_decoder(graph)
    tile = min(max(samples.shape[-1] // 2, LEAST_TILE), MOST_TILE)
    overlap = tile // OVERLAP
    worst = min(
        psnr_db(decode_in_tiles(decode, z, vae.factor, tile, overlap), decode(z)) for z in _singly(vae, samples)
    )
    return Tiling(latents=tile, overlap=overlap, psnr_db=round(min(worst, EXACT_DB), 1))


def _check_picture(pixels: FloatArray, what: str) -> None:
    if not np.isfinite(pixels).all():
        raise PictureError(f"what {what} is not finite; give the VAE that the model was trained with")
    if np.ptp(pixels) == 0:
        raise PictureError(f"what {what} is the same everywhere; give the VAE that the model was trained with")


def _singly(vae: VaeSource, samples: FloatArray) -> list[FloatArray]:
    z = vae.unscaled(samples)
    return [z[place : place + 1] for place in range(len(z))]
