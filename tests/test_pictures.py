"""Grids, sheets with captions, and the settings inside a PNG."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elit_edge.errors import RequestError
from elit_edge.generation import Generation
from elit_edge.manifest import Manifest, Provenance, SamplerDefaults
from elit_edge.model_config import ModelConfig, read_fields
from elit_edge.pictures import captioned_sheet, grid, save_png, save_samples, settings_of
from elit_edge.sampling import Guidance

FIXTURES = Path(__file__).parent / "fixtures"
WHITE = 255


def pictures(count, side):
    """No two pixels of a picture are alike, and no picture has a white pixel."""
    return np.random.default_rng(count).integers(0, WHITE, (count, side, side, 3), dtype=np.uint8)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def inked(area):
    return bool((area < 128).any())


@contextmanager
def files_of_at_most(size):
    """A disk that takes no more than so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("count", "side", "columns", "size"),
    [
        (1, 32, None, (96, 96)),
        (2, 32, None, (196, 96)),
        (4, 32, None, (196, 196)),
        (5, 32, None, (296, 196)),
        (12, 32, 5, (496, 296)),
        (3, 32, 1, (96, 296)),
        (2, 40, None, (244, 120)),
        (1, 96, None, (96, 96)),
        (2, 128, None, (260, 128)),
        (1, 1, None, (96, 96)),
    ],
)
def test_a_grid_enlarges_by_whole_factors_to_96_pixels_and_leaves_gaps_of_4(count, side, columns, size):
    assert grid(pictures(count, side), columns).size == size


def test_a_grid_shows_every_pixel_as_a_block_in_reading_order():
    images = pictures(5, 32)
    sheet = pixels(grid(images))
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        shown = sheet[row * 100 : row * 100 + 96, column * 100 : column * 100 + 96]
        np.testing.assert_array_equal(shown, image.repeat(3, axis=0).repeat(3, axis=1))


def test_gaps_and_empty_places_of_a_grid_are_white():
    sheet = pixels(grid(pictures(5, 32)))
    assert (sheet[96:100] == WHITE).all()
    assert (sheet[:, 96:100] == WHITE).all()
    assert (sheet[:, 196:200] == WHITE).all()
    assert (sheet[100:, 200:] == WHITE).all()


def test_a_sheet_shows_the_grid_untouched_by_its_captions():
    images = pictures(6, 32)
    inner = pixels(grid(images, 3))
    sheet = pixels(captioned_sheet(images, ["heart", "flower"], ["1 latents\n2 ms", "4", "16"]))
    np.testing.assert_array_equal(sheet[-inner.shape[0] :, -inner.shape[1] :], inner)


@pytest.mark.parametrize("captioned", [0, 1, 2])
def test_a_columns_caption_stands_above_that_column(captioned):
    captions = ["4 ms" if i == captioned else "" for i in range(3)]
    sheet = pixels(captioned_sheet(pictures(6, 32), ["", ""], captions))
    left, top = sheet.shape[1] - 296, sheet.shape[0] - 196
    above = [sheet[:top, left + 100 * i : left + 100 * i + 96] for i in range(3)]
    assert [inked(area) for area in above] == [i == captioned for i in range(3)]


@pytest.mark.parametrize("captioned", [0, 1])
def test_a_rows_caption_stands_left_of_that_row(captioned):
    captions = ["heart" if i == captioned else "" for i in range(2)]
    sheet = pixels(captioned_sheet(pictures(6, 32), captions, ["", "", ""]))
    left, top = sheet.shape[1] - 296, sheet.shape[0] - 196
    beside = [sheet[top + 100 * i : top + 100 * i + 96, :left] for i in range(2)]
    assert [inked(area) for area in beside] == [i == captioned for i in range(2)]


def test_captions_of_two_lines_get_room_for_two_lines():
    one, two = (captioned_sheet(pictures(2, 32), [""], [caption, ""]) for caption in ("4", "4\n4"))
    assert two.width == one.width
    assert two.height > one.height
    top = two.height - 96
    ink = (pixels(two)[:top] < 128).any(axis=(1, 2))
    assert np.count_nonzero(np.diff(ink.astype(int)) == 1) == 2


@pytest.fixture
def generation():
    return Generation(
        samples=np.zeros((2, 4, 16, 16)),
        images=None,
        labels=(3, 9),
        latents=(16, 4, 1),
        solver="heun",
        guidance=Guidance("ccfg", 1.5, 2, 0.25, 0.75),
        seed=2**63 + 1,
        step_ms=(3.25, 1.5, 0.75),
        condition_ms=0.5,
    )


@pytest.fixture
def manifest():
    model = ModelConfig.from_fields(read_fields(FIXTURES / "official_tiny_a.json"), "the fixture")
    origin = Provenance(
        source="x.pt", source_sha256="0a" * 32, elit_edge="0.1", torch="2.9", onnx_ir="1", onnxscript="1", opset=18
    )
    return Manifest(
        name="tiny",
        model=model,
        sample_space="latents",
        ladder=(),
        graphs=(),
        files={},
        sampler=SamplerDefaults(),
        verification=None,
        provenance=origin,
    )


def test_the_settings_say_everything_that_made_the_picture(generation, manifest):
    assert json.loads(json.dumps(settings_of(generation, manifest))) == {
        "bundle": "tiny",
        "source_sha256": "0a" * 32,
        "labels": [3, 9],
        "seed": 2**63 + 1,
        "solver": "heun",
        "latents": [16, 4, 1],
        "guidance": "ccfg",
        "scale": 1.5,
        "weak_latents": 2,
        "interval": [0.25, 0.75],
        "step_ms": [3.25, 1.5, 0.75],
        "condition_ms": 0.5,
    }


def test_a_png_holds_the_picture_and_its_settings(tmp_path):
    picture, settings = grid(pictures(2, 32)), {"bundle": "Bündel", "labels": [1, 2], "seed": 2**64 - 1}
    save_png(picture, tmp_path / "x.png", settings, replace=False)
    with Image.open(tmp_path / "x.png") as read:
        assert read.format == "PNG"
        assert json.loads(read.text["elit-edge"]) == settings
        np.testing.assert_array_equal(pixels(read), pixels(picture))


def test_samples_are_saved_as_float32(tmp_path):
    samples = np.random.default_rng(0).normal(size=(2, 4, 8, 8))
    save_samples(samples, tmp_path / "x.npy", replace=False)
    read = np.load(tmp_path / "x.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples.astype(np.float32))


def write_png(path, *, replace):
    save_png(Image.fromarray(pictures(1, 64)[0]), path, {}, replace=replace)


def write_npy(path, *, replace):
    save_samples(np.zeros((1, 3, 64, 64)), path, replace=replace)


@pytest.mark.parametrize("write", [write_png, write_npy])
def test_what_exists_is_replaced_only_on_demand(write, tmp_path):
    path = tmp_path / "output"
    path.write_bytes(b"old")
    with pytest.raises(RequestError, match="--force"):
        write(path, replace=False)
    assert path.read_bytes() == b"old"
    write(path, replace=True)
    assert path.stat().st_size > 4096


@pytest.mark.parametrize(
    "write",
    [
        write_png,
        pytest.param(
            write_npy,
        ),
    ],
)
def test_a_disk_that_takes_no_more_is_an_error_with_its_reason_and_leaves_nothing(write, tmp_path):
    with files_of_at_most(4096), pytest.raises(RequestError) as caught:
        write(tmp_path / "output", replace=False)
    assert list(tmp_path.iterdir()) == []
    assert "File too large" in str(caught.value)
