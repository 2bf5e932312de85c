"""Small VAEs as diffusers writes them, exported, and decoded on each runtime: the pictures are those of diffusers."""

from types import SimpleNamespace

import numpy as np
import pytest
from export.vae.tools import CONFIG, SIDE, noise, save_kl, save_tiny

from elit_edge.bundle_files import BundleFiles
from elit_edge.decoding import LatentDecoder
from elit_edge.export.vae.exporting import export_decoder
from elit_edge.export.vae.source import read_vae
from elit_edge.parity import psnr_db
from elit_edge.runtimes.registry import choose

SAVES = {"AutoencoderKL": save_kl, "AutoencoderTiny": save_tiny}
LEAST_DB = {"fp32": 110.0, "fp16": 45.0}


@pytest.fixture(
    scope="module", params=[(layout, precision) for layout in SAVES for precision in LEAST_DB], ids="-".join
)
def exported(request, tmp_path_factory):
    layout, precision = request.param
    vae = read_vae(SAVES[layout](tmp_path_factory.mktemp("vae") / layout))
    folder = tmp_path_factory.mktemp("bundle")
    return (
        vae,
        folder,
        export_decoder(vae, CONFIG, folder, precision, noise(2, 4, SIDE, SIDE), "noise", lambda *_: None),
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_are_those_of_diffusers(exported, runtime):
    vae, folder, decoder = exported
    samples = noise(2, 4, SIDE, SIDE)
    session = choose(runtime).prepare_decoder(BundleFiles(folder, SimpleNamespace()), decoder, 1)
    with LatentDecoder(session, CONFIG, tiles=False) as opened:
        found = opened.decode(samples)
    wanted = np.concatenate([vae.decode(vae.unscaled(sample[None])) for sample in samples])
    assert psnr_db(found, wanted) > LEAST_DB[decoder.precision]
