"""Decoders made of small VAEs. A trace follows from the config alone: one serves every test of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from export.vae.tools import CONFIG, SIDE, Made, noise, save_kl, save_tiny

from elit_edge.export.vae import exporting
from elit_edge.export.vae.graph import trace_decoder
from elit_edge.export.vae.source import VaeSource, read_vae

Make = Callable[[Path, str], Made]


@pytest.fixture(scope="session")
def make(tmp_path_factory) -> Make:
    """Export the VAE of a folder."""
    traces = {}

    def traced(vae: VaeSource):
        key = (vae.path.parent / "config.json").read_text()
        if key not in traces:
            traces[key] = trace_decoder(vae)
        return traces[key].clone()

    def made(folder: Path, precision: str) -> Made:
        vae, bundle, samples = read_vae(folder), tmp_path_factory.mktemp("bundle"), noise(2, 4, SIDE, SIDE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "trace_decoder", traced)
            decoder = exporting.export_decoder(vae, CONFIG, bundle, precision, samples, "noise", lambda *_: None)
        return Made(folder, vae, bundle, decoder, samples)

    return made


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory) -> Path:
    return save_kl(tmp_path_factory.mktemp("vae") / "kl")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("vae") / "tiny")


@pytest.fixture(scope="session")
def kl(make, kl_folder) -> Made:
    return make(kl_folder, "fp32")


@pytest.fixture(scope="session")
def tiny(make, tiny_folder) -> Made:
    return make(tiny_folder, "fp32")
