"""From latents to pixels: a picture whole, or where memory is short in tiles whose seams are blended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.errors import PictureError, RequestError
from elit_edge.fit import check_memory, decode_memory_bytes, decoder_open_bytes, free_bytes
from elit_edge.manifest import Decoder, Manifest
from elit_edge.model_config import ModelConfig, Positive
from elit_edge.runtimes.contract import DecoderSession, FloatArray

if TYPE_CHECKING:
    from typing_extensions import Self

FLAT_DEVIATION = 1e-3
"""A sample or picture whose values spread less than this (of noise: 1) is a constant, not a picture."""
MEASURING_S, MOST_ROUNDS = 1.5, 5
"""Decodes of a measurement after the first: so many, as long as they take less time than this; one at least."""
MARGIN = 1.25
"""Time held back for decoding, over what it was measured to take."""


class DecoderCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a decoder was measured to cost on this device with one runtime."""

    runtime: str
    open_ms: float
    """0 where it was open already."""
    latents: Positive
    """Side of what was decoded: of a tile, or of a picture that is smaller."""
    first_ms: float
    """The first decode after opening."""
    median_ms: float
    """A decode after that."""

    def expected_ms(self, decoder: Decoder, side: int, batch: int, *, tiles: bool) -> float:
        """Time to hold back for `batch` pictures of `side` latents a side with a decoder that was just opened."""
        per_side = side / self.latents
        if tiles:
            per_side = len(tile_starts(side, decoder.tiling.latents, decoder.tiling.overlap))
        return MARGIN * (max(0.0, self.first_ms - self.median_ms) + batch * per_side**2 * self.median_ms)


def measure(session: DecoderSession, model: ModelConfig, open_ms: float = 0.0) -> DecoderCost:
    """Measure an open decoder in this process, on noise of a tile's size."""
    side = min(model.image_size, session.decoder.tiling.latents)
    z = np.random.default_rng(0).standard_normal((1, model.in_channels, side, side), np.float32)

    def once_ms() -> float:
        begun = time.perf_counter()
        session.pixels_from(z)
        return (time.perf_counter() - begun) * 1e3

    first_ms = once_ms()
    rounds = [once_ms()]
    while len(rounds) < MOST_ROUNDS and sum(rounds) < MEASURING_S * 1e3:
        rounds.append(once_ms())
    return DecoderCost(
        runtime=session.runtime,
        open_ms=open_ms,
        latents=side,
        first_ms=first_ms,
        median_ms=float(np.median(rounds)),
    )


def needed_bytes(manifest: Manifest, decoder: Decoder, *, tiles: bool) -> int:
    """Memory that it takes to open a decoder and to decode a picture, foreseen."""
    return decoder_open_bytes(manifest, decoder) + decode_memory_bytes(decoder, manifest.model.image_size, tiles)


def settle_tiles(manifest: Manifest, decoder: Decoder, tiles: bool | None, limit_bytes: int | None = None) -> bool:
    """Whether to decode in tiles: as asked for, or with None where a whole picture does not fit the memory. A picture
    no larger than a tile never is.

    Args:
        manifest: of the bundle.
        decoder: one of its decoders, not open yet.
        tiles: what was asked for.
        limit_bytes: memory that this may take, where that is less than what is free.

    Raises:
        FitError: it does not fit the memory that is free.
    """
    if tiles is None:
        spare = min((known for known in (free_bytes(), limit_bytes) if known is not None), default=math.inf)
        tiles = needed_bytes(manifest, decoder, tiles=False) > spare
    pixels = decoder.factor * manifest.model.image_size
    advice = "close other programs" if tiles else "close other programs, or decode in tiles"
    check_memory(needed_bytes(manifest, decoder, tiles=tiles), f"decoding {pixels} x {pixels} pixels", advice)
    return tiles and manifest.model.image_size > decoder.tiling.latents


class LatentDecoder:
    """A decoder, open: samples of its model in, pixels out. A context manager; not for use by two threads at once."""

    def __init__(
        self, session: DecoderSession, model: ModelConfig, *, tiles: bool, cost: DecoderCost | None = None
    ) -> None:
        """Takes over the session; `cost` is what it was measured to cost, where it was."""
        self.decoder, self.runtime, self.tiles = session.decoder, session.runtime, tiles
        self._session, self._model, self._cost = session, model, cost

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises:
        RequestError: samples of this shape [C, S, S] are not of its model.
        """
        wanted = (self._model.in_channels, self._model.image_size, self._model.image_size)
        if shape != wanted:
            raise RequestError(f"samples have shape {list(shape)} each; this decoder takes {list(wanted)}")

    def decode(self, samples: npt.NDArray[np.floating], *, check: bool = True) -> FloatArray:
        """One picture at a time, whole or in tiles.

        Args:
            samples: [B, C, S, S] as the model makes them.
            check: False for previews, which may be no pictures yet.

        Returns:
            Pixels [B, 3, f·S, f·S] float32, in [-1, 1] but for what the decoder overshoots.

        Raises:
            RequestError: the shape is not this model's.
            PictureError: pixels that are not finite, or the same everywhere.
        """
        self.check_shape(samples.shape[1:])
        decoder = self.decoder
        side = decoder.factor * self._model.image_size
        pixels = np.empty((len(samples), 3, side, side), np.float32)
        for index, sample in enumerate(samples):
            z = (sample[None] / decoder.scale + decoder.shift).astype(np.float32)
            pixels[index] = self._pixels_of(z)[0]
            if check:
                self._check_picture(pixels[index], index)
        return pixels

    def expected_ms(self, batch: int) -> float:
        """Time to hold back for `batch` pictures; what was never measured is measured now, on a tile."""
        if self._cost is None:
            self._cost = measure(self._session, self._model)
        return self._cost.expected_ms(self.decoder, self._model.image_size, batch, tiles=self.tiles)

    def close(self) -> None:
        """Give back what it holds; closing twice is no error."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pixels_of(self, z: FloatArray) -> FloatArray:
        if not self.tiles:
            return self._session.pixels_from(z)
        tiling = self.decoder.tiling
        return decode_in_tiles(self._session.pixels_from, z, self.decoder.factor, tiling.latents, tiling.overlap)

    def _check_picture(self, pixels: FloatArray, index: int) -> None:
        spread = float(pixels.std()) if np.isfinite(pixels).all() else math.nan
        if not spread >= FLAT_DEVIATION:
            fault = "with values that are not finite" if math.isnan(spread) else f"flat (spread {spread:.1e})"
            raise PictureError(
                f"picture {index} came out of the {self.decoder.kind} decoder {fault} on {self.runtime}; "
                "verify the bundle: elit-edge verify BUNDLE"
            )


def decode_in_tiles(
    run: Callable[[FloatArray], FloatArray], z: FloatArray, factor: int, tile: int, overlap: int
) -> FloatArray:
    """Decode tile by tile; beside the result only one tile is in memory at a time.

    Tiles are spread evenly and all of one size, so neighbours share `overlap` latents or more. Between two of them the
    weights change linearly over `overlap` latents, in the middle of what they share.

    Args:
        run: decodes z [B, C, h, w] to pixels [B, 3, f·h, f·w].
        z: float32 [B, C, h, w].
        factor: f, pixels a side for each latent.
        tile: latents a side of a tile; a shorter side of z is taken whole.
        overlap: latents that neighbours share at least, 1 .. tile - 1.

    Returns:
        Pixels [B, 3, f·h, f·w] float32.

    Raises:
        RequestError: tiles that share too little, or do not advance.
    """
    if not 1 <= overlap < tile:
        raise RequestError(f"tiles of {tile} latents that share {overlap}: they must share 1 to {tile - 1}")
    batch, _, height, width = z.shape
    rows, columns = (_spans(side, tile, overlap, factor) for side in (height, width))
    pixels = np.zeros((batch, 3, factor * height, factor * width), np.float32)
    for row, across in rows:
        for column, along in columns:
            part = run(np.ascontiguousarray(z[:, :, row, column]))
            pixels[:, :, _in_pixels(row, factor), _in_pixels(column, factor)] += part * (across[:, None] * along)
    return pixels


def tile_starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Where tiles begin along a side, in latents: evenly spread, the last one ends where the side does."""
    if side <= tile:
        return (0,)
    steps = math.ceil((side - tile) / (tile - overlap))
    return tuple(i * (side - tile) // steps for i in range(steps + 1))


def _spans(side: int, tile: int, overlap: int, factor: int) -> list[tuple[slice, FloatArray]]:
    """The tiles along a side, and the weights of the pixels of each; at each pixel of the side they sum to one."""
    starts = tile_starts(side, tile, overlap)
    tile = min(tile, side)
    centres = (np.arange(factor * side) + 0.5) / factor
    # how far each seam is passed, 0..1: a tile has what the seam before it has given and the one after it not yet taken
    middles = [(before + tile + after) / 2 for before, after in pairwise(starts)]
    passed: list[npt.NDArray[np.float64]] = [np.clip((centres - middle) / overlap + 0.5, 0, 1) for middle in middles]
    bounds = [np.ones_like(centres), *passed, np.zeros_like(centres)]
    spans = [slice(start, start + tile) for start in starts]
    return [
        (span, (before - after)[_in_pixels(span, factor)].astype(np.float32))
        for span, (before, after) in zip(spans, pairwise(bounds), strict=True)
    ]


def _in_pixels(span: slice, factor: int) -> slice:
    return slice(factor * span.start, factor * span.stop)
