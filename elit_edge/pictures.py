"""Pictures on disk: a grid of samples, or a sheet with captions, as PNG with its settings inside."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from elit_edge.files import appearing_file
from elit_edge.generation import Generation, Images
from elit_edge.manifest import Manifest

METADATA_KEY = "elit-edge"
"""The PNG text chunk that holds the settings, as JSON."""
SHOWN_SIDE = 96
"""Small samples are enlarged, by a whole factor, to at least so many pixels a side."""
GAP = 4
MARGIN = 70
FONT_SIZE = 14


def grid(images: Images, columns: int | None = None) -> Image.Image:
    """Pictures [B, S, S, 3] uint8 side by side, enlarged without smoothing, as near to a square as they go."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    side = images.shape[1] * _factor(images.shape[1])
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), "white")
    for i, image in enumerate(images):
        place = ((i % columns) * (side + GAP), (i // columns) * (side + GAP))
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), place)
    return sheet


def captioned_sheet(images: Images, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """A table of pictures [rows · columns, S, S, 3], in row order, with a caption to each row and column."""
    inner = grid(images, len(columns))
    step = inner.width // len(columns) + 1
    font = ImageFont.load_default(FONT_SIZE)
    lines = max(caption.count("\n") + 1 for caption in columns)
    top = GAP + lines * (FONT_SIZE + GAP)
    sheet = Image.new("RGB", (MARGIN + inner.width, top + inner.height), "white")
    sheet.paste(inner, (MARGIN, top))
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(columns):
        draw.multiline_text((MARGIN + i * step, GAP), caption, "black", font)
    for i, caption in enumerate(rows):
        draw.text((GAP, top + int((i + 0.4) * (inner.height + GAP) / len(rows))), caption, "black", font)
    return sheet


def _factor(side: int) -> int:
    return max(1, math.ceil(SHOWN_SIDE / side))


def settings_of(generation: Generation, manifest: Manifest) -> dict[str, Any]:
    """What has to be known to make the same pictures again, and how long they took."""
    guidance = generation.guidance
    decoding = (
        {}
        if generation.decode_ms is None
        else {
            "decoder": generation.decoder,
            "tiles": generation.tiles,
            "decode_ms": round(generation.decode_ms, 3),
        }
    )
    return {
        "bundle": manifest.name,
        "source_sha256": manifest.provenance.source_sha256,
        "labels": generation.labels,
        "seed": generation.seed,
        "solver": generation.solver,
        "latents": generation.latents,
        "guidance": guidance.kind,
        "scale": guidance.scale,
        "weak_latents": guidance.weak_latents,
        "interval": (guidance.low, guidance.high),
        "step_ms": [round(value, 3) for value in generation.step_ms],
        "condition_ms": round(generation.condition_ms, 3),
        **decoding,
    }


def save_png(picture: Image.Image, path: Path, settings: Mapping[str, Any], *, replace: bool) -> None:
    """Write a PNG with its settings, whole or not at all.

    Raises:
        RequestError: `path` exists and is not to be replaced, or cannot be written.
    """
    info = PngInfo()
    info.add_text(METADATA_KEY, json.dumps(settings))
    with appearing_file(path, replace=replace) as file:
        picture.save(file, "PNG", pnginfo=info)


def save_samples(samples: np.ndarray[Any, Any], path: Path, *, replace: bool) -> None:
    """Write samples as float32 .npy, whole or not at all.

    Raises:
        RequestError: `path` exists and is not to be replaced, or cannot be written.
    """
    npy = io.BytesIO()  # numpy's own writing to a file hides the reason of a failure
    np.save(npy, samples.astype(np.float32))
    with appearing_file(path, replace=replace) as file:
        file.write(npy.getbuffer())
