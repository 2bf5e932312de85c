"""A small decoder for tests: its graph written by hand, its pictures computed by PyTorch, and bundles that hold it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from elit_edge.bundle_files import DECODER_FOLDER, BundleFiles, file_entry, write_manifest
from elit_edge.manifest import Decoder, DecoderParity, Tiling

CHANNELS, WIDTH, GROUPS, FACTOR = 4, 8, 2, 2
SCALE, SHIFT = 0.5, 0.125
ELEMENT = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}


def weights(seed: int = 5) -> Mapping[str, np.ndarray]:
    """float32, of numbers that float16 holds exactly."""
    draw = np.random.default_rng(seed)
    shapes = {
        "in.w": (WIDTH, CHANNELS, 3, 3),
        "in.b": (WIDTH,),
        "norm.w": (WIDTH,),
        "norm.b": (WIDTH,),
        "out.w": (3, WIDTH, 3, 3),
        "out.b": (3,),
    }
    made = {name: 0.3 * draw.standard_normal(shape) for name, shape in shapes.items()}
    return {name: value.astype(np.float16).astype(np.float32) for name, value in made.items()}


def pixels_of(z: np.ndarray, seed: int = 5) -> np.ndarray:
    """What the graph has to give for z [B, 4, h, w], by PyTorch in float64."""
    w = {name: torch.from_numpy(value).double() for name, value in weights(seed).items()}
    x = functional.conv2d(torch.from_numpy(z).double(), w["in.w"], w["in.b"], padding=1)
    x = functional.silu(functional.group_norm(x, GROUPS, w["norm.w"], w["norm.b"], eps=1e-6))
    x = functional.interpolate(x, scale_factor=FACTOR, mode="nearest")
    return functional.conv2d(x, w["out.w"], w["out.b"], padding=1).numpy()


def write_graph(path: Path, precision: str = "fp32", seed: int = 5) -> Path:
    """The graph, and beside it its weights; the path of those."""
    element, kind = ELEMENT[precision]
    around = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["z"], ["x0"], to=element),
        helper.make_node("Conv", ["x0", "in.w", "in.b"], ["x1"], **around),
        helper.make_node("GroupNormalization", ["x1", "norm.w", "norm.b"], ["x2"], num_groups=GROUPS, epsilon=1e-6),
        helper.make_node("Sigmoid", ["x2"], ["x3"]),
        helper.make_node("Mul", ["x2", "x3"], ["x4"]),
        helper.make_node(
            "Resize",
            ["x4", "", "scales"],
            ["x5"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        helper.make_node("Conv", ["x5", "out.w", "out.b"], ["x6"], **around),
        helper.make_node("Cast", ["x6"], ["pixels"], to=TensorProto.FLOAT),
    ]
    held = [numpy_helper.from_array(value.astype(kind), name) for name, value in weights(seed).items()]
    held.append(numpy_helper.from_array(np.array([1, 1, FACTOR, FACTOR], np.float32), "scales"))
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "out_height", "out_width"])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    beside = path.with_suffix(".bin")
    onnx.save(model, path, save_as_external_data=True, location=beside.name, size_threshold=64)
    return beside


def entry(kind: str = "full", precision: str = "fp32", tile: int = 6, **changes) -> Decoder:
    """The manifest's words on it; the measured figures in them are made up."""
    made = Decoder(
        kind=kind,
        layout="AutoencoderKL",
        precision=precision,
        path=f"{DECODER_FOLDER}/{kind}.onnx",
        weights=f"{DECODER_FOLDER}/{kind}.bin",
        scale=SCALE,
        shift=SHIFT,
        factor=FACTOR,
        left_wide=0,
        pixel_bytes=256,
        parity=DecoderParity(cases=1, latents="noise", psnr_db=140.0, headroom=None),
        tiling=Tiling(latents=tile, overlap=2, psnr_db=20.0),
        source="by hand",
        source_sha256="0" * 64,
    )
    return msgspec.structs.replace(made, **changes)


def with_decoders(bundle: Path, copy: Path, *decoders: Decoder) -> Path:
    """A copy of a bundle of latents with decoders by hand; the fast one has other weights than the full one."""
    shutil.copytree(bundle, copy)
    (copy / DECODER_FOLDER).mkdir()
    manifest = BundleFiles.open(bundle).manifest
    files = dict(manifest.files)
    for decoder in decoders:
        write_graph(copy / decoder.path, decoder.precision, SEEDS[decoder.kind])
        files |= {name: file_entry(copy / name) for name in (decoder.path, decoder.weights)}
    write_manifest(copy, msgspec.structs.replace(manifest, decoders=decoders, files=files))
    return copy


SEEDS = {"full": 5, "fast": 6}
