"""Tiles and their seams, a decoder's pictures whole and in tiles, and when it is to be which."""

import weakref
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from decoder_graphs import SCALE, SHIFT, entry
from hypothesis import given
from hypothesis import strategies as st

from elit_edge import decoding, fit
from elit_edge.bundle import Bundle
from elit_edge.decoding import DecoderCost, LatentDecoder, decode_in_tiles, measure, needed_bytes, settle_tiles
from elit_edge.errors import FitError, PictureError, RequestError
from elit_edge.runtimes.contract import DecoderSession

FACTOR = 2
MODEL = SimpleNamespace(in_channels=4, image_size=16)


def enlarged(z, factor=FACTOR):
    """A decoder that looks at one latent alone: its first three channels, repeated."""
    return np.repeat(np.repeat(z[:, :3], factor, axis=2), factor, axis=3)


def latents(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


class Enlarging(DecoderSession):
    """Stands for a runtime; it keeps the shapes that it was asked for."""

    def __init__(self, pixels=enlarged, decoder=None):
        super().__init__(decoder or entry(), "enlarging")
        self.pixels, self.shapes, self.closed = pixels, [], 0

    def pixels_from(self, z):
        assert z.dtype == np.float32
        self.shapes.append(z.shape)
        return self.pixels(z).astype(np.float32)

    def close(self):
        self.closed += 1


sizes = st.tuples(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(2, 17), st.integers(1, 16)
).filter(lambda size: size[4] < size[3])


@given(sizes)
def test_what_needs_no_neighbours_is_the_same_in_tiles(size):
    """So weights sum to one at every pixel: any other sum would scale it."""
    height, width, factor, tile, overlap = size
    z = latents(2, 4, height, width)
    found = decode_in_tiles(lambda part: enlarged(part, factor), z, factor, tile, overlap)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, enlarged(z, factor), rtol=2e-6, atol=2e-6)


@given(sizes)
def test_tiles_are_full_sized_reach_both_ends_and_share_enough(size):
    height, width, factor, tile, overlap = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    seen = []

    def run(part):
        seen.append(part)
        return enlarged(part, factor)

    decode_in_tiles(run, np.stack([rows, columns, rows])[None], factor, tile, overlap)
    assert {part.shape for part in seen} == {(1, 3, min(tile, height), min(tile, width))}
    for axis, side in ((0, height), (1, width)):
        spans = sorted({(int(part[0, axis].min()), int(part[0, axis].max()) + 1) for part in seen})
        assert (spans[0][0], spans[-1][1]) == (0, side)
        assert all(before[1] - after[0] >= overlap for before, after in pairwise(spans))
    across, along = (1 + max(0, -(-(side - tile) // (tile - overlap))) for side in (height, width))
    assert len(seen) == across * along, "no more tiles than the overlap asks for"


def test_a_seam_is_a_straight_line_from_one_tile_to_the_next():
    """Two tiles of 8 latents that share 4: the first says 0, the second 1."""
    values = iter([0.0, 1.0])
    found = decode_in_tiles(lambda part: np.full_like(enlarged(part), next(values)), latents(1, 4, 2, 12), FACTOR, 8, 4)
    seam = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(found[0, 1, 3], [*[0.0] * 8, *seam, *[1.0] * 8], atol=1e-6)


def test_one_tile_at_a_time_is_kept():
    """The output of a tile is given up before the next one is asked for, and never seen twice."""
    held = []

    def run(part):
        assert sum(count() is not None for count in held) <= 1
        out = enlarged(part).copy()
        held.append(weakref.ref(out))
        return out

    decode_in_tiles(run, latents(1, 4, 20, 20), FACTOR, 8, 2)
    assert len(held) == 9


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 8), (8, 9), (1, 1)])
def test_tiles_that_do_not_advance_or_share_nothing_are_refused(tile, overlap):
    with pytest.raises(RequestError, match=f"tiles of {tile} latents that share {overlap}"):
        decode_in_tiles(enlarged, latents(1, 4, 16, 16), FACTOR, tile, overlap)


@pytest.mark.parametrize("tiles", [True, False])
def test_samples_are_scaled_shifted_and_decoded_one_at_a_time(tiles):
    session = Enlarging()
    samples = latents(3, 4, 16, 16).astype(np.float64)
    with LatentDecoder(session, MODEL, tiles=tiles) as decoder:
        pixels = decoder.decode(samples)
    assert (pixels.dtype, pixels.shape) == (np.float32, (3, 3, 32, 32))
    np.testing.assert_allclose(pixels, enlarged(samples / SCALE + SHIFT), atol=2e-6)
    assert session.shapes == ([(1, 4, 6, 6)] * 16 * 3 if tiles else [(1, 4, 16, 16)] * 3)
    assert session.closed == 1


@pytest.mark.parametrize("shape", [(4, 16, 16), (1, 3, 16, 16), (1, 4, 16, 8), (1, 4, 32, 32)])
def test_samples_of_another_model_are_refused(shape):
    with pytest.raises(RequestError, match=r"this decoder takes \[4, 16, 16\]"):
        LatentDecoder(Enlarging(), MODEL, tiles=False).decode(latents(*shape))


@pytest.mark.parametrize(
    ("fault", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (None, r"flat \(spread 0\.0e\+00\)")]
)
def test_what_is_no_picture_is_refused_by_its_number(fault, words):
    def pixels(z):
        out = enlarged(z)
        if z[0, 3, 0, 0] > 50:
            out[:] = 0.25
            out[0, 0, 0, 0] = 0.25 if fault is None else fault
        return out

    samples = latents(3, 4, 16, 16)
    samples[1, 3, 0, 0] = 100
    decoder = LatentDecoder(Enlarging(pixels), MODEL, tiles=False)
    with pytest.raises(PictureError, match=f"picture 1 came out of the full decoder .*{words}.*enlarging"):
        decoder.decode(samples)
    assert decoder.decode(samples, check=False).shape == (3, 3, 32, 32)


def test_memory_decides_about_tiles_where_nobody_says(tiny_bundle_path, monkeypatch):
    manifest = Bundle.open(tiny_bundle_path).manifest
    decoder = entry(weights=next(iter(manifest.files)))
    whole, tiled = (needed_bytes(manifest, decoder, tiles=tiles) for tiles in (False, True))
    side, tile = 2 * 16, 2 * 6
    assert whole - tiled == pytest.approx(fit.DECODE_COPIES * 256 * (side**2 - tile**2))
    for free, wanted, tiles in [
        (whole, None, False),
        (whole - 1, None, True),
        (tiled, None, True),
        (whole, True, True),
        (None, None, False),
    ]:
        monkeypatch.setattr(decoding, "free_bytes", lambda free=free: free)
        monkeypatch.setattr(fit, "free_bytes", lambda free=free: free)
        assert settle_tiles(manifest, decoder, wanted) is tiles
    monkeypatch.setattr(decoding, "free_bytes", lambda: whole)
    assert settle_tiles(manifest, decoder, None, limit_bytes=whole - 1)
    assert not settle_tiles(manifest, decoder, None, limit_bytes=whole)
    assert not settle_tiles(manifest, entry(tile=16, weights=decoder.weights), True), (
        "a tile is as large as the picture"
    )


@pytest.mark.parametrize(("tiles", "advice"), [(False, "or decode in tiles"), (True, "close other programs$")])
def test_what_does_not_fit_is_refused_with_advice(tiny_bundle_path, monkeypatch, tiles, advice):
    manifest = Bundle.open(tiny_bundle_path).manifest
    monkeypatch.setattr(fit, "free_bytes", lambda: 1000)
    with pytest.raises(FitError, match=f"decoding 32 x 32 pixels needs about .*{advice}"):
        settle_tiles(manifest, entry(weights=next(iter(manifest.files))), tiles)


def test_time_is_foreseen_from_a_tile():
    """A tile of 6 latents takes 10 ms, the first time 30. Whole: 16² / 6² tiles' worth; in tiles: 4 x 4 of them."""
    cost = DecoderCost(runtime="x", open_ms=100, latents=6, first_ms=30, median_ms=10)
    whole = cost.expected_ms(entry(), 16, 3, tiles=False) / decoding.MARGIN
    assert whole == pytest.approx(20 + 3 * 10 * 256 / 36)
    assert cost.expected_ms(entry(), 16, 3, tiles=True) / decoding.MARGIN == pytest.approx(20 + 3 * 10 * 16)


def test_measuring_decodes_tiles_or_smaller_pictures(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(decoding.time, "perf_counter", lambda: next(now) * 0.5)
    session = Enlarging()
    cost = measure(session, MODEL, open_ms=7.0)
    assert session.shapes == [(1, 4, 6, 6)] * 4, "the first, and three of half a second each"
    assert (cost.runtime, cost.latents, cost.open_ms, cost.first_ms, cost.median_ms) == ("enlarging", 6, 7, 500, 500)
    small = Enlarging(decoder=entry(tile=64))
    measure(small, MODEL)
    assert set(small.shapes) == {(1, 4, 16, 16)}


def test_a_decoder_that_was_never_measured_measures_itself_once():
    session = Enlarging()
    decoder = LatentDecoder(session, MODEL, tiles=False)
    assert 0 < decoder.expected_ms(1) < decoder.expected_ms(4)
    assert len(session.shapes) == 1 + decoding.MOST_ROUNDS
