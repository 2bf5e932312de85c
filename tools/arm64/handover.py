"""What the x86 side gives to the ARM side: bundles, its own numbers to agree with, graphs that it optimised for itself.

Laid out for tests/arm64/test_on_device.py: NAME.elit, NAME.npz, NAME_run.npz, noise.npy, optimised/.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from elit_edge import Bundle
from elit_edge.export.exporter import export
from elit_edge.generation import generate
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.model_config import read_fields
from elit_edge.noise import NoiseStream

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
BUDGETS = {"tiny": tuple(range(1, 17)), "sample": (1,)}
"""The sample model is large for an emulator: one budget of it is enough."""
SEED = 5


def make_handover(folder: Path) -> None:
    """Fill `folder`, which is made anew."""
    torch.set_num_threads(1)
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "optimised").mkdir(parents=True)
    tiny = FIXTURES / "official_tiny_a.pt"
    export(read_checkpoint(tiny, read_fields(tiny.with_suffix(".json"))), folder / "tiny.elit")
    with resources.as_file(resources.files("elit_edge.data") / "sample.safetensors") as path:
        export(read_checkpoint(path), folder / "sample.elit")
    for name, budgets in BUDGETS.items():
        _numbers(folder, name, budgets)
    np.save(folder / "noise.npy", NoiseStream(SEED, 2).draw((3, 32, 32)))
    _optimise_bundle(folder / "sample.elit", folder / "optimised")
    _optimise_convolutions(folder / "optimised")


def _numbers(folder: Path, name: str, budgets: Sequence[int]) -> None:
    """NAME.npz: inputs, and the velocity [K, B, C, S, S] of K budgets; NAME_run.npz: two steps at one latent."""
    bundle = Bundle.open(folder / f"{name}.elit")
    model = bundle.manifest.model
    random = np.random.default_rng(SEED)
    shape = (2, model.in_channels, model.image_size, model.image_size)
    given = {
        "x": random.standard_normal(shape, np.float32),
        "t": random.uniform(0, 1, 2).astype(np.float32),
        "y": np.array([1, model.null_label]),
    }
    with bundle.prepare("onnxruntime", "fp32", threads=1) as session:
        velocity = np.stack([session.velocity(**given, latents=latents) for latents in budgets])
        run = generate(session, [1], steps=2, latents=1, seed=SEED)
    np.savez(folder / f"{name}.npz", **given, latents=np.array(budgets), velocity=velocity)
    images = np.empty(0, np.uint8) if run.images is None else run.images
    np.savez(folder / f"{name}_run.npz", samples=run.samples, images=images)


def _optimise_bundle(bundle: Path, target: Path) -> None:
    """The bundle's graphs of any budget, as ONNX Runtime rewrites them for the processor that it finds here."""
    for weights in (bundle / "onnx").glob("*.safetensors"):
        shutil.copy(weights, target)
    for role in ("condition", "velocity"):
        optimise(bundle / "onnx" / f"{role}.onnx", target / f"{role}.onnx")


def _optimise_convolutions(target: Path) -> None:
    """Two convolutions, the graph that changes most: plain and optimised, with an input and the output of x86.

    No ELIT graph holds a convolution; this is what another model, or a decoder, would meet.
    """
    random = np.random.default_rng(SEED)
    weights = [random.standard_normal((32, channels, 3, 3), np.float32) for channels in (16, 32)]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "second"], ["y"], pads=[1, 1, 1, 1]),
    ]
    tensors = [numpy_helper.from_array(array, name) for array, name in zip(weights, ("first", "second"), strict=True)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 16), ("y", 32))]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    plain = target / "convolutions_plain.onnx"
    onnx.save(model, plain)
    optimise(plain, target / "convolutions.onnx")
    x = random.standard_normal((1, 16, 8, 8), np.float32)
    (y,) = ort.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.savez(target / "convolutions.npz", x=x, y=y)


def optimise(source: Path, target: Path) -> None:
    """Save the graph as ONNX Runtime would run it here, with all of its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
