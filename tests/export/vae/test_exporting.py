"""The decoder that is written computes what diffusers does, at any size, in both precisions, and is refused if not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export.vae.tools import CONFIG, WEIGHTS, change, diffusers_decode, noise, save_tiny
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from safetensors.numpy import load_file

from elit_edge.decoding import decode_in_tiles
from elit_edge.errors import CheckpointError, ExportError, ParityError, PictureError
from elit_edge.export.half import narrow, stored_halves
from elit_edge.export.vae import exporting
from elit_edge.export.vae.checking import check_parity
from elit_edge.export.weights_file import write_tensors
from elit_edge.parity import DECODER_GATE_DB, psnr_db
from elit_edge.runtimes.onnxruntime_.session import inference_session

GREATEST = float(np.finfo(np.float16).max)
STREAM = "decoder.up_blocks.0.resnets.0.conv2"
"""Its result joins the residual stream, which no norm divides again before the end of the block."""
both = pytest.mark.parametrize("kind", ["kl", "tiny"])


def run(graph, z):
    return inference_session(graph, 1).run(None, {"z": z})[0]


@both
@pytest.mark.parametrize("shape", [(1, 4, 24, 24), (2, 4, 5, 9), (1, 4, 1, 1), (65, 4, 2, 3)])
def test_the_graph_is_diffusers_decoder_at_any_size(kind, shape, request):
    made = request.getfixturevalue(kind)
    z = noise(*shape, seed=3)
    found, right = run(made.graph, z), diffusers_decode(made.source, z)
    assert found.dtype == np.float32
    assert psnr_db(found, right) > DECODER_GATE_DB["fp32"]


@both
def test_the_graph_is_sound_and_says_what_is_free(kind, request):
    made = request.getfixturevalue(kind)
    onnx.checker.check_model(str(made.graph), full_check=True)
    graph = onnx.load(made.graph, load_external_data=False).graph
    shapes = {
        value.name: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"z": ["batch", 4, "height", "width"], "pixels": ["batch", 3, "2*height", "2*width"]}
    inside = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
    assert sum(tensor.ByteSize() for tensor in inside) < 2000


@both
def test_the_file_holds_each_weight_of_the_decoder_once(kind, request):
    made = request.getfixturevalue(kind)
    given = load_file(made.source / WEIGHTS)
    wanted = {name: value for name, value in given.items() if name.startswith(("decoder.", "post_quant_conv."))}
    stored = load_file(made.bundle / made.decoder.weights)
    assert {name.removesuffix("_t") for name in stored} == wanted.keys()
    for name, value in stored.items():
        right = wanted[name.removesuffix("_t")]
        np.testing.assert_array_equal(value, right.T if name.endswith("_t") else right)
    assert sum(name.endswith("_t") for name in stored) == (4 if kind == "kl" else 0)


@both
def test_the_manifest_says_what_was_written(kind, request):
    made = request.getfixturevalue(kind)
    name = {"kl": "full", "tiny": "fast"}[kind]
    found = made.decoder
    files = sorted(path.relative_to(made.bundle).as_posix() for path in made.bundle.rglob("*") if path.is_file())
    assert files == sorted([found.path, found.weights]) == [f"decoders/{name}.onnx", f"decoders/{name}.safetensors"]
    assert (found.kind, found.precision, found.factor, found.left_wide) == (name, "fp32", 2, 0)
    assert (found.scale, found.shift) == ((0.5, 0.25) if kind == "kl" else (1.0, 0.0))
    assert (found.parity.cases, found.parity.latents, found.parity.headroom) == (2, "noise", None)
    assert DECODER_GATE_DB["fp32"] < found.parity.psnr_db < 200
    assert found.source_sha256 == made.vae.sha256


def test_pixel_bytes_follow_from_the_widest_block(kl, tiny):
    """KL: a block's input of 32 channels, what it is normed to, its sigmoid, their product; tiny: 3 times 16."""
    assert kl.decoder.pixel_bytes == 4 * 32 * 4
    assert tiny.decoder.pixel_bytes == 3 * 16 * 4


@both
def test_tiles_are_as_far_from_the_whole_as_those_of_diffusers(kind, request):
    made = request.getfixturevalue(kind)
    assert (made.decoder.tiling.latents, made.decoder.tiling.overlap) == (16, 4)
    z = made.samples / np.float32(made.decoder.scale) + np.float32(made.decoder.shift)
    first = z[:1]  # tiles are tried on one picture
    tiled = decode_in_tiles(lambda tile: diffusers_decode(made.source, tile), first, 2, 16, 4)
    wanted = psnr_db(tiled, diffusers_decode(made.source, first))
    assert made.decoder.tiling.psnr_db == pytest.approx(wanted, abs=0.1)
    assert made.decoder.tiling.psnr_db < 100


class GroupNormalization(OpRun):
    """As its stash_type asks: sums in float32. The evaluator's own sums in the type of the input."""

    def _run(self, x, scale, bias, epsilon=None, num_groups=None, stash_type=None):
        assert stash_type == 1
        wide = x.astype(np.float32).reshape(x.shape[0], num_groups, -1)
        apart = wide - wide.mean(-1, keepdims=True)
        normal = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + epsilon)).reshape(x.shape).astype(x.dtype)
        places = (-1, *(1,) * (x.ndim - 2))
        return (normal * scale.reshape(places) + bias.reshape(places),)


def evaluated(graph, z):
    """Every value, by ONNX's own evaluator: in fp16 it rounds each to fp16, as ONNX Runtime on a CPU need not."""
    ours = ReferenceEvaluator(onnx.load(graph), new_ops=[GroupNormalization])
    with np.errstate(all="ignore"):
        return ours.run(None, {"z": z}, intermediate=True)


def small(made):
    """z of a corner: the evaluator is slow."""
    return made.vae.unscaled(made.samples[:1, :, :6, :6])


@both
def test_in_fp16_it_holds_its_gate_and_is_half_as_large(kind, make, request):
    wide = request.getfixturevalue(kind)
    made = make(wide.source, "fp16")
    assert (made.decoder.precision, made.decoder.left_wide) == ("fp16", 0)
    onnx.checker.check_model(str(made.graph), full_check=True)
    graph = onnx.load(made.graph, load_external_data=False).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert {value.dtype for value in load_file(made.bundle / made.decoder.weights).values()} == {np.dtype(np.float16)}
    z = noise(2, 4, 5, 9, seed=3)
    assert DECODER_GATE_DB["fp16"] < psnr_db(run(made.graph, z), diffusers_decode(made.source, z)) < 110
    z = small(made)
    found = evaluated(made.graph, z)["pixels"]
    assert DECODER_GATE_DB["fp16"] < psnr_db(found, diffusers_decode(made.source, z)) < 110
    assert sorted(path.name for path in made.bundle.iterdir()) == ["decoders"]


@both
def test_headroom_is_that_of_the_greatest_number(kind, make, request):
    wide = request.getfixturevalue(kind)
    made = make(wide.source, "fp16")
    greatest = max(
        float(np.abs(value).max())
        for z in made.vae.unscaled(made.samples)
        for value in evaluated(wide.graph, z[None]).values()
        if getattr(value, "dtype", None) == np.float32
    )
    assert made.decoder.parity.headroom == pytest.approx(GREATEST / greatest, rel=1e-3)


@pytest.fixture(scope="module")
def large(make, kl_folder, tmp_path_factory):
    """A decoder whose residual stream goes far beyond fp16, though each weight holds in it."""
    folder = shutil.copytree(kl_folder, tmp_path_factory.mktemp("large") / "vae")

    def enlarge(weights):
        weights[f"{STREAM}.weight"] *= 2.0**18
        weights["decoder.up_blocks.0.upsamplers.0.conv.weight"] *= 2.0**-6

    return make(change(folder, enlarge), "fp16")


def test_what_would_overflow_stays_in_float32(large):
    assert 0 < large.decoder.left_wide < 20
    assert 4 <= large.decoder.parity.headroom < 100
    assert large.decoder.parity.psnr_db > DECODER_GATE_DB["fp16"]
    z = small(large)
    found, right = evaluated(large.graph, z), diffusers_decode(large.source, z)
    assert psnr_db(found["pixels"], right) > DECODER_GATE_DB["fp16"]
    graph = onnx.load(large.graph, load_external_data=False).graph
    (cast,) = (node for node in graph.node if f"{STREAM}.weight" in node.input)
    (convolution,) = (node for node in graph.node if cast.output[0] in node.input)
    assert (cast.op_type, convolution.op_type) == ("Cast", "Conv")
    stream = found[convolution.output[0]]
    assert stream.dtype == np.float32
    assert np.abs(stream).max() > GREATEST


def test_and_it_would(large, make, tmp_path):
    """The same graph, all of it in fp16."""
    model = ir.load(make(large.source, "fp32").graph)
    narrow(model, "fp16", write_tensors(tmp_path / "all.safetensors", stored_halves([model], "fp16"), lambda _: None))
    ir.save(model, tmp_path / "all.onnx")
    assert not np.isfinite(evaluated(tmp_path / "all.onnx", small(large))["pixels"]).all()


def test_a_weight_that_fp16_cannot_hold_is_named(make, kl_folder, tmp_path):
    folder = shutil.copytree(kl_folder, tmp_path / "vae")
    change(folder, lambda weights: weights["decoder.conv_in.bias"].__setitem__(0, 1e5))
    with pytest.raises(ExportError, match=r"decoder\.conv_in\.bias holds 1e\+05"):
        make(folder, "fp16")


def spoil(made, folder, name, value):
    """A copy of the bundle with one number of one stored weight changed."""
    bundle = shutil.copytree(made.bundle, folder)
    path = bundle / made.decoder.weights
    weights = load_file(path)
    data = path.read_bytes()
    place = data.index(weights[name].tobytes())
    number = np.float32(weights[name].ravel()[0] + value).tobytes()
    path.write_bytes(data[:place] + number + data[place + len(number) :])
    return bundle / made.decoder.path


@both
def test_one_wrong_number_of_the_weights_fails_the_gate(kind, request, tmp_path):
    made = request.getfixturevalue(kind)
    again = check_parity(made.graph, "fp32", made.vae, made.samples)
    assert round(again, 1) == made.decoder.parity.psnr_db
    name = {"kl": "decoder.conv_in.bias", "tiny": "decoder.layers.0.bias"}[kind]
    for place, change_of_it in enumerate((0.01, np.nan)):
        with pytest.raises(ParityError, match="falls below 100 dB"):
            check_parity(spoil(made, tmp_path / str(place), name, change_of_it), "fp32", made.vae, made.samples)


def test_pictures_of_another_size_are_refused(tiny, make, tmp_path):
    other = make(save_tiny(tmp_path / "three", upsampling_scaling_factor=3), "fp32")
    with pytest.raises(ParityError, match=r"gives pictures \(1, 3, 72, 72\), PyTorch \(1, 3, 48, 48\)"):
        check_parity(other.graph, "fp32", tiny.vae, tiny.samples)


@pytest.mark.parametrize(("value", "words"), [(0.0, "same everywhere"), (np.nan, "not finite")])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_vae_that_makes_no_pictures_is_refused(value, words, precision, make, kl_folder, tmp_path):
    folder = shutil.copytree(kl_folder, tmp_path / "vae")

    def fill(weights):
        for part in ("weight", "bias"):
            weights[f"decoder.conv_out.{part}"].fill_(value)

    with pytest.raises(PictureError, match=words):
        make(change(folder, fill), precision)


def test_a_vae_of_another_model_is_refused_before_it_is_traced(kl, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "trace_decoder", lambda _: pytest.fail("it was traced"))
    other = replace(kl.vae, latent_channels=8)
    with pytest.raises(CheckpointError, match="decodes latents of 8 channels"):
        exporting.export_decoder(other, CONFIG, tmp_path, "fp32", kl.samples, "noise", lambda *_: None)
    assert not list(tmp_path.iterdir())
