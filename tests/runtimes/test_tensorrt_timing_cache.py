"""`--timing-cache` of classic TensorRT, on the SIMULATED library: the file is ours, what is in it the library's."""

import shutil

import pytest

from elit_edge import Bundle
from elit_edge.errors import RequestError
from elit_edge.runtimes.tensorrt_.compiling import compile_bundle
from elit_edge.runtimes.tensorrt_.library import TENSORRT


@pytest.fixture
def files(gpu, tiny_bundle_path, tmp_path):
    return Bundle.open(shutil.copytree(tiny_bundle_path, tmp_path / "tiny.elit")).files


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "board.timing"


def compiled(files, cache):
    return compile_bundle(Bundle.open(files.folder).files, TENSORRT, "fp32", timing_cache=cache)


def test_it_is_written_and_read_again(files, cache):
    compiled(files, cache)
    first = cache.read_bytes()
    compiled(files, cache)
    assert cache.read_bytes().startswith(first[:17])
    assert len(cache.read_bytes()) >= len(first)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="short"),
        pytest.param(lambda data: data[:30], id="cut in the digest"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\0" * 4000, id="another file"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="one bit"),
    ],
)
def test_a_damaged_one_is_refused_before_the_library_sees_it(files, cache, damage):
    compiled(files, cache)
    broken = damage(cache.read_bytes())
    cache.write_bytes(broken)
    before = (files.folder / "manifest.json").read_bytes()
    with pytest.raises(RequestError, match=r"board\.timing is damaged, or was not written by elit-edge; delete it"):
        compiled(files, cache)
    assert cache.read_bytes() == broken
    assert (files.folder / "manifest.json").read_bytes() == before


def test_one_of_another_gpu_is_refused(gpu, files, cache):
    compiled(files, cache)
    gpu.compute_capability = "8.7"
    with pytest.raises(RequestError, match="is of another GPU or another version of TensorRT; delete it"):
        compiled(files, cache)
