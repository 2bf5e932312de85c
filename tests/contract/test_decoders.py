"""What the contract promises of decoders, held against every runtime that is ready here, in each precision."""

from types import SimpleNamespace

import numpy as np
import pytest
from decoder_graphs import entry, pixels_of, write_graph

from elit_edge.bundle_files import DECODER_FOLDER, BundleFiles
from elit_edge.errors import BundleError
from elit_edge.runtimes.contract import Ready
from elit_edge.runtimes.registry import all_runtimes

TOLERANCE = {"fp32": 2e-5, "fp16": 2e-2}
"""Of pixels of 3 at most."""
DECODING = ("onnxruntime", "openvino")


@pytest.fixture(params=DECODING)
def runtime(request):
    found = all_runtimes()[request.param]
    state = found.check()
    if not isinstance(state, Ready):
        pytest.skip(f"{request.param}: {state.reason}")
    return found


@pytest.fixture(params=TOLERANCE)
def precision(request):
    return request.param


@pytest.fixture
def files(tmp_path, precision):
    """A folder with the decoder; sessions ask no more of a bundle."""
    (tmp_path / DECODER_FOLDER).mkdir()
    write_graph(tmp_path / entry().path, precision)
    return BundleFiles(tmp_path, SimpleNamespace())


def latents(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_pixels_are_those_of_pytorch_at_any_batch_height_and_width(runtime, files, precision):
    decoder = entry(precision=precision)
    assert runtime.decodes(decoder)
    with runtime.prepare_decoder(files, decoder, 1) as session:
        assert (session.decoder, session.runtime) == (decoder, runtime.name)
        for shape in [(1, 4, 8, 8), (2, 4, 5, 7), (1, 4, 16, 3), (1, 4, 8, 8)]:
            z = latents(*shape)
            before = z.copy()
            pixels = session.pixels_from(z)
            assert (pixels.dtype, pixels.shape) == (np.float32, (shape[0], 3, 2 * shape[2], 2 * shape[3]))
            assert np.abs(pixels - pixels_of(z)).max() < TOLERANCE[precision]
            np.testing.assert_array_equal(z, before)


def test_pixels_belong_to_the_caller(runtime, files, precision):
    with runtime.prepare_decoder(files, entry(precision=precision), 1) as session:
        first = session.pixels_from(latents(1, 4, 6, 6))
        kept = first.copy()
        session.pixels_from(-latents(1, 4, 6, 6))
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_closing_twice_is_no_error(runtime, files, precision):
    session = runtime.prepare_decoder(files, entry(precision=precision), None)
    session.close()
    session.close()


def test_a_graph_that_is_none_is_refused_in_one_line(runtime, files, precision):
    files.path(entry().path).write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"refuses .*full\.onnx: .*export the bundle again") as refusal:
        runtime.prepare_decoder(files, entry(precision=precision), None)
    assert "\n" not in str(refusal.value)


def test_the_others_say_that_they_do_not_decode():
    for name, runtime in all_runtimes().items():
        if name not in DECODING:
            assert not runtime.decodes(entry())
            with pytest.raises(BundleError, match=f"{name} does not decode"):
                runtime.prepare_decoder(BundleFiles(None, None), entry(), None)
