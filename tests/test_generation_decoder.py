"""`generate` with a decoder: pictures and previews of a model of latents, and deadlines that cover decoding."""

import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from decoder_graphs import SCALE, SEEDS, SHIFT, entry, pixels_of, with_decoders

from elit_edge import Bundle, generate
from elit_edge.decoding import DecoderCost, LatentDecoder
from elit_edge.errors import BundleError, DeadlineError, PictureError, RequestError
from elit_edge.pictures import settings_of
from elit_edge.runtimes.contract import DecoderSession


@pytest.fixture(scope="module")
def bundle(tiny_bundle_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "tiny.elit"
    return Bundle.open(with_decoders(tiny_bundle_path, path, entry(), entry("fast")))


@pytest.fixture(scope="module")
def session(bundle):
    with bundle.prepare("onnxruntime", threads=1) as opened:
        yield opened


def expected(samples, kind="full"):
    """The pictures of samples, by PyTorch."""
    pixels = np.moveaxis(pixels_of(samples / SCALE + SHIFT, SEEDS[kind]), 1, -1)
    return np.clip((pixels + 1) / 2 * 255, 0, 255)


def assert_same(images, wanted):
    """Within the half that rounding to whole numbers takes."""
    assert images.dtype == np.uint8
    assert np.abs(images - wanted).max() < 0.51


@pytest.mark.parametrize("kind", ["full", "fast"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_are_the_decoded_samples(bundle, session, kind, runtime):
    with bundle.prepare_decoder(kind, runtime, threads=1) as decoder:
        made = generate(session, [3, 7], steps=2, decoder=decoder)
    assert made.images.shape == (2, 32, 32, 3)
    assert_same(made.images, expected(made.samples, kind))
    assert made.decode_ms > 0
    assert (made.decoder, made.tiles) == (kind, False)
    found = settings_of(made, bundle.manifest)
    assert (found["decoder"], found["tiles"]) == (kind, False)
    assert found["decode_ms"] == pytest.approx(made.decode_ms, abs=1e-3)


def test_tiles_on_demand_are_near_the_whole_and_said(bundle, session):
    pictures = {}
    for tiles in (True, False):
        with bundle.prepare_decoder(runtime="onnxruntime", tiles=tiles) as decoder:
            made = generate(session, [3], steps=2, decoder=decoder)
            assert made.tiles is tiles
            pictures[tiles] = made.images.astype(float)
    difference = np.abs(pictures[True] - pictures[False])
    assert 0 < difference.mean() < 30, "norms see a tile in place of the picture"


def test_without_a_decoder_there_are_samples_alone(session):
    made = generate(session, [3], steps=1)
    assert (made.images, made.decode_ms, made.decoder, made.tiles) == (None, None, None, None)


def previews_of(session, **decoders):
    seen = []
    generate(session, [3], steps=4, preview_every=2, progress=lambda p: seen.append(p.preview), **decoders)
    return seen


def test_previews_come_from_the_previewer_or_from_a_fast_decoder(bundle, session):
    with (
        bundle.prepare_decoder("full", "onnxruntime") as full,
        bundle.prepare_decoder("fast", "onnxruntime") as fast,
    ):
        assert previews_of(session, decoder=full) == [None] * 4
        of_fast = previews_of(session, decoder=fast)
        of_previewer = previews_of(session, decoder=full, previewer=fast)
        of_full = previews_of(session, previewer=full)
        last = generate(session, [3], steps=4).samples
    assert [preview is None for preview in of_fast] == [True, False, True, False]
    np.testing.assert_array_equal(of_fast[3], of_previewer[3])
    np.testing.assert_array_equal(of_fast[1], of_previewer[1])
    assert_same(of_fast[3], expected(last, "fast"))
    assert_same(of_full[3], expected(last, "full"))


def test_the_full_decoder_is_the_default_and_a_missing_one_is_said(bundle, tiny_bundle_path):
    with bundle.prepare_decoder(runtime="onnxruntime") as decoder:
        assert decoder.decoder.kind == "full"
    with pytest.raises(BundleError, match="--vae DIR"):
        Bundle.open(tiny_bundle_path).prepare_decoder()
    with pytest.raises(RequestError, match="threads = 0"):
        bundle.prepare_decoder(threads=0)


class Slow(DecoderSession):
    """Stands for a slow device: it sleeps, and gives a picture that it was given."""

    def __init__(self, seconds, pixels=None):
        super().__init__(entry(), "slow")
        self.seconds, self.calls = seconds, 0
        self.pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)) if pixels is None else pixels

    def pixels_from(self, _z):
        self.calls += 1
        time.sleep(self.seconds)
        return self.pixels.astype(np.float32)

    def close(self):
        pass


def slow(session, seconds, **cost):
    """A decoder of the session's model whose cost is known."""
    known = DecoderCost(runtime="slow", open_ms=0, latents=16, first_ms=seconds * 1e3, median_ms=seconds * 1e3)
    return LatentDecoder(Slow(seconds), session.manifest.model, tiles=False, cost=known)


def test_a_deadline_covers_decoding(session):
    generate(session, [3], deadline=2.0)  # measures the session
    begun = time.perf_counter()
    made = generate(session, [3, 4], deadline=2.5, decoder=slow(session, 0.5))
    took_ms = (time.perf_counter() - begun) * 1e3
    assert made.deadline.kept
    assert made.decode_ms > 1000
    assert made.deadline.deadline_ms == 2500
    assert took_ms - 100 < made.deadline.elapsed_ms <= took_ms
    assert made.deadline.plan.expected_ms < 1300, "what is left once decoding is held back"


def test_a_deadline_that_decoding_alone_would_miss_is_refused_before_the_first_step(session):
    decoder = slow(session, 0.5)
    with pytest.raises(DeadlineError, match="held back for decoding"):
        generate(session, [3, 4], deadline=1.0, decoder=decoder)
    assert decoder._session.calls == 0


def test_a_decoder_of_unknown_cost_is_measured_at_the_expense_of_the_deadline(session):
    decoder = LatentDecoder(Slow(0.05), session.manifest.model, tiles=False)
    made = generate(session, [3], deadline=3.0, decoder=decoder)
    assert made.deadline.kept
    assert decoder._session.calls >= 3


def test_a_flat_picture_is_refused(session):
    decoder = LatentDecoder(Slow(0, np.zeros((1, 3, 32, 32))), session.manifest.model, tiles=False)
    with pytest.raises(PictureError, match="flat"):
        generate(session, [3], steps=1, decoder=decoder)


def test_a_decoder_of_another_model_is_refused_before_the_first_step(session):
    other = LatentDecoder(Slow(0), SimpleNamespace(in_channels=4, image_size=32), tiles=False)
    for names in ("decoder", "previewer"):
        with pytest.raises(RequestError, match=r"this decoder takes \[4, 32, 32\]"):
            generate(session, [3], steps=1, **{names: other}, progress=pytest.fail)


def test_a_model_of_pixels_needs_no_decoder(session, monkeypatch):
    pixels = msgspec.structs.replace(session.manifest, sample_space="pixels")
    decoder = slow(session, 0)
    monkeypatch.setattr(session, "manifest", pixels)
    for names in ("decoder", "previewer"):
        with pytest.raises(RequestError, match="tiny makes pixels, which need no decoder"):
            generate(session, [3], steps=1, **{names: decoder})
