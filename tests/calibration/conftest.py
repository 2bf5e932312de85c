"""Fixtures of the calibration tests: a small set of the tiny model, what was observed with it, its graphs rewritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.observing import Observed, observe
from elit_edge.calibration.rewriting import rewrite, stored_weights
from elit_edge.calibration.schemes import Evidence, Scheme, dynamic, eight_bits, four_bits, static
from elit_edge.calibration.sites import ROLES, Site, find_sites, weight_of
from elit_edge.calibration.states import CalibrationSet, default_recipe
from elit_edge.export.half import TYPES, narrow, stored_halves
from elit_edge.export.weights_file import write_tensors
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.transformer import DiffusionTransformer

BUDGETS, STEPS, CLASSES = (1, 5, 16), 4, 3

Load = Callable[[], dict[str, ir.Model]]
Build = Callable[[str, Scheme | None], BundleFiles]


@pytest.fixture(scope="session")
def tiny_files(tiny_bundle_path) -> BundleFiles:
    return BundleFiles.open(tiny_bundle_path)


@pytest.fixture(scope="session")
def load_graphs(tiny_files) -> Load:
    """The float32 graphs by role, read anew in each call: a rewrite changes them in place."""

    def load() -> dict[str, ir.Model]:
        return {role: ir.load(tiny_files.graph_path(tiny_files.manifest.graph(role, "fp32"))) for role in ROLES}

    return load


@pytest.fixture(scope="session")
def tiny_sites(load_graphs) -> tuple[Site, ...]:
    return tuple(site for role, model in load_graphs().items() for site in find_sites(model, role))


@pytest.fixture(scope="session")
def weight(load_graphs) -> Callable[[Site], np.ndarray]:
    """The float32 weight of a site, [inputs, outputs]."""
    models = load_graphs()
    return lambda site: weight_of(models, site)


@pytest.fixture(scope="session")
def tiny_states(tiny_files) -> CalibrationSet:
    recipe = default_recipe(tiny_files, budgets=BUDGETS, steps=STEPS, classes=CLASSES)
    with Bundle(tiny_files).prepare("onnxruntime", "fp32", threads=1) as session:
        return collect(session, recipe, lambda *_: None, print)


@pytest.fixture(scope="session")
def tiny_model(tiny_files) -> DiffusionTransformer:
    """The torch model. Leave it as it is."""
    return model_of_bundle(tiny_files, "fp32")


@pytest.fixture(scope="session")
def workplace(tiny_bundle_path, tmp_path_factory) -> Path:
    """A copy of the tiny bundle that can be written beside."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path_factory.mktemp("watched") / "tiny.elit"))


@pytest.fixture(scope="session")
def seen(workplace, tiny_files, tiny_sites, tiny_states) -> dict[str, Observed]:
    """What the set shows at every site."""
    paths = [workplace / tiny_files.manifest.graph(role, "fp32").path for role in ROLES]
    return observe(paths[0], paths[1], tiny_sites, tiny_states, 1, lambda _: None)


@pytest.fixture(scope="session")
def build(tiny_bundle_path, tiny_files, load_graphs, tmp_path_factory) -> Build:
    """The tiny bundle grown by one precision: of a scheme, or of 16 bits where the scheme is None."""

    def built(precision: str, scheme: Scheme | None) -> BundleFiles:
        folder = Path(shutil.copytree(tiny_bundle_path, tmp_path_factory.mktemp(precision) / "tiny.elit"))
        models = load_graphs()
        weights = folder / "onnx" / f"weights-{precision}.safetensors"
        if scheme is None:
            tensors = write_tensors(weights, stored_halves(models.values(), precision), lambda _: None)
        else:
            tensors = write_tensors(weights, stored_weights(models, scheme.plans, scheme.scalings), lambda _: None)
        graphs = []
        for role, model in models.items():
            if scheme is None:
                narrow(model, precision, tensors)
            else:
                rewrite(model, scheme.plans, tensors)
            path = weights.with_name(f"{role}-{precision}.onnx")
            ir.save(model, path)
            source = tiny_files.manifest.graph(role, "fp32")
            own = {"precision": precision, "path": f"onnx/{path.name}", "weights": f"onnx/{weights.name}"}
            graphs.append(msgspec.structs.replace(source, **own))
        all_graphs = (*tiny_files.manifest.graphs, *graphs)
        entries = file_entries(folder)
        return BundleFiles(folder, msgspec.structs.replace(tiny_files.manifest, graphs=all_graphs, files=entries))

    return built


@pytest.fixture(scope="session")
def evidence(tiny_model, tiny_states, seen) -> Evidence:
    return Evidence(tiny_model, tiny_states, seen)


@pytest.fixture(scope="session")
def made(tiny_sites, weight, evidence) -> Mapping[str, Scheme | None]:
    """Every precision's scheme on the tiny model."""

    def quiet(_stage: str, _share: float) -> None:
        pass

    return {
        "int8": static(tiny_sites, weight, evidence, quiet),
        "int8-dynamic": dynamic(tiny_sites, weight),
        "w8": eight_bits(tiny_sites, weight),
        "w4": four_bits(tiny_sites, weight, evidence, quiet),
        **dict.fromkeys(TYPES),
    }


@pytest.fixture(scope="session")
def grown(made, build) -> Mapping[str, BundleFiles]:
    """The tiny bundle with each precision."""
    return {precision: build(precision, scheme) for precision, scheme in made.items()}
