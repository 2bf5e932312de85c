"""Existing quantization tools and ours, on the velocity graph of the sample, calibrated on the same states.

Usage: python benchmarks/quantizers.py      # prints the tables of docs/calibration.md; a quiet machine, 15 minutes

Tools that are not installed are passed over. They are no part of the project's environment; to add them to a copy:
pip install nncf lief cppimport omegaconf pulp pydantic regex tqdm
pip install --no-deps nvidia-modelopt onnx-graphsurgeon onnxconverter-common onnxslim polygraphy
(`nvidia-modelopt[onnx]` brings CUDA packages, and another ONNX and ONNX Runtime than the project's.)
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from machine import describe, interleaved, load_average
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from elit_edge.bundle import Bundle
from elit_edge.calibration import search
from elit_edge.calibration.calibrating import calibrate
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.observing import observe
from elit_edge.calibration.proof.held_out import guided_states
from elit_edge.calibration.ranges import OBSERVERS
from elit_edge.calibration.rewriting import rewrite, stored_weights
from elit_edge.calibration.rounding import INT8, SEVEN_BITS, channel_scales, compensated, nearest
from elit_edge.calibration.schemes import Evidence, static
from elit_edge.calibration.sensitivity import Simulated, simulated
from elit_edge.calibration.sites import ROLES, find_sites, weight_of
from elit_edge.calibration.smoothing import folds
from elit_edge.calibration.states import CalibrationSet, default_recipe
from elit_edge.export.exporter import export
from elit_edge.export.weights_file import write_tensors
from elit_edge.manifest import Manifest, Precision
from elit_edge.model.bundle_weights import model_of_bundle
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.parity import psnr_db
from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.runtimes.onnxruntime_.session import UNPACKED, inference_session
from elit_edge.runtimes.openvino_.session import ov
from elit_edge.runtimes.reference.session import ModelSession

THREADS = 2
BUDGETS = (1, 2, 4, 8, 16)
BY_BUDGET = (*(f"J = {latents}" for latents in BUDGETS), "worst, dB")
TIMED = (1, 4, 16)
REPEATS = 9
SEED = 9
"""Of the states that results are measured on; nothing was calibrated on them."""
REASON_LENGTH = 160
OURS: tuple[Precision, ...] = ("int8", "int8-dynamic", "w8", "w4")

Feeds = dict[str, np.ndarray[Any, np.dtype[Any]]]
Run = Callable[[Feeds], FloatArray]
Tool = Callable[[Path, list[Feeds], Path], Path]
"""(float32 graph in one file, batches of states, where to write) -> what was written."""


@dataclass(frozen=True)
class Made:
    """What a tool left."""

    velocity: Path
    """ONNX, or OpenVINO's own."""
    condition: Path
    """Float32's, or its own where smoothing has gone into it."""
    precision: Precision = "int8"


class Graphs(Session):
    """Two graphs behind the contract."""

    def __init__(self, manifest: Manifest, condition: Run, velocity: Run) -> None:
        super().__init__(manifest, "", "")
        self._condition, self._velocity = condition, velocity

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        return self._condition({"t": t, "y": y})

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        return self._velocity({"x": x, "modulations": modulations, "latents": np.zeros(latents, np.int64)})

    def close(self) -> None:
        """Nothing outlives the object."""


class Reader(quantization.CalibrationDataReader):
    """Batches of states in the ways that ONNX Runtime and modelopt ask for them."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds = feeds
        self.rewind()

    def __len__(self) -> int:
        return len(self._feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)

    def get_first(self) -> Feeds:
        return self._feeds[0]

    def rewind(self) -> None:
        self._left = iter(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._feeds[start_index:end_index])


def ort_static(
    source: Path, feeds: list[Feeds], target: Path, method: str = "MinMax", *, seven: bool = True, **options: object
) -> Path:
    quantization.quantize_static(
        source,
        target,
        Reader(feeds),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=seven,
        calibrate_method=quantization.CalibrationMethod[method],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, **options},
    )
    return target


def ort_dynamic(source: Path, _feeds: list[Feeds], target: Path, *, seven: bool) -> Path:
    kind = quantization.QuantType.QInt8
    quantization.quantize_dynamic(source, target, ["MatMul"], per_channel=True, reduce_range=seven, weight_type=kind)
    return target


def ort_weights(source: Path, _feeds: list[Feeds], target: Path, *, bits: int) -> Path:
    form = quantization.QuantFormat.QDQ if bits == 4 else quantization.QuantFormat.QOperator
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits, block_size=64, is_symmetric=True, quant_format=form)
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    return target


def nncf_static(
    source: Path, feeds: list[Feeds], target: Path, *, backend: str, seven: bool = True, symmetric: bool = False
) -> Path:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    fix = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE if seven else OverflowFix.DISABLE)
    settings = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED,
        "advanced_parameters": fix,
        "subset_size": len(feeds),
    }
    if backend == "onnx":
        onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(feeds), **settings), target)
        return target
    target = target.with_suffix(".xml")
    made = nncf.quantize(ov.Core().read_model(source), nncf.Dataset(feeds), **settings)
    ov.save_model(made, target, compress_to_fp16=False)
    return target


def nncf_weights(source: Path, feeds: list[Feeds], target: Path, **options: bool) -> Path:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    target = target.with_suffix(".xml")
    made = nncf.compress_weights(
        ov.Core().read_model(source), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, all_layers=True,
        dataset=nncf.Dataset(feeds), subset_size=len(feeds),
        advanced_parameters=AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
        **options,
    )  # fmt: skip
    ov.save_model(made, target, compress_to_fp16=False)
    return target


def modelopt(source: Path, feeds: list[Feeds], target: Path, *, mode: str, method: str, **options: object) -> Path:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source), quantize_mode=mode, calibration_data_reader=Reader(feeds), calibration_method=method,
        calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=str(target), log_level="ERROR", **options,
    )  # fmt: skip
    return target


INPUTS = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
BATCHES = {**INPUTS, "CalibStridedMinMax": 1}
PRODUCTS = {"op_types_to_quantize": ["MatMul", "Gemm"], "dq_only": True}

TOOLS: dict[str, Tool] = {
    "ORT static, MinMax, 8 bits": partial(ort_static, seven=False),
    "ORT static, MinMax, 8 bits, inputs alone": partial(ort_static, seven=False, **INPUTS),
    "ORT static, MinMax, 7 bits, inputs alone": partial(ort_static, **INPUTS),
    "ORT static, Percentile": partial(ort_static, method="Percentile", **INPUTS),
    "ORT static, Percentile, 7 bits, inputs alone, by batches": partial(ort_static, method="Percentile", **BATCHES),
    "ORT static, Entropy": partial(ort_static, method="Entropy", **INPUTS),
    "ORT static, Entropy, 7 bits, inputs alone, by batches": partial(ort_static, method="Entropy", **BATCHES),
    "ORT static, SmoothQuant": partial(ort_static, SmoothQuant=True, **INPUTS),
    "NNCF on ONNX, 8 bits": partial(nncf_static, backend="onnx", seven=False),
    "NNCF on ONNX, 7 bits": partial(nncf_static, backend="onnx"),
    "NNCF on ONNX, 7 bits, symmetric": partial(nncf_static, backend="onnx", symmetric=True),
    "NNCF on OpenVINO, 8 bits": partial(nncf_static, backend="openvino", seven=False),
    "NNCF on OpenVINO, 7 bits": partial(nncf_static, backend="openvino"),
    "modelopt, max": partial(modelopt, mode="int8", method="max", **PRODUCTS),
    "modelopt, entropy": partial(modelopt, mode="int8", method="entropy", **PRODUCTS),
    "ORT dynamic, 8 bits": partial(ort_dynamic, seven=False),
    "ORT dynamic, 7 bits": partial(ort_dynamic, seven=True),
    "ORT weights, 8 bits": partial(ort_weights, bits=8),
    "ORT weights, 4 bits": partial(ort_weights, bits=4),
    "NNCF weights, 4 bits": nncf_weights,
    "NNCF weights, 4 bits, scale estimation": partial(nncf_weights, scale_estimation=True),
    "NNCF weights, 4 bits, GPTQ": partial(nncf_weights, gptq=True),
    "modelopt weights, 4 bits": partial(modelopt, mode="int4", method="rtn_dq", block_size=64),
    "modelopt weights, 4 bits, AWQ": partial(modelopt, mode="int4", method="awq_lite", block_size=64),
}


def in_floats(made: Made) -> Run:
    """Integers are made float32 before each product."""
    path = _onnx_file(made)
    if b"DynamicQuantizeLinear" in path.read_bytes():
        raise ValueError("its products have no form in floats")
    session = inference_session(path, THREADS, unpacking=True)
    return lambda feeds: session.run(None, feeds)[0]


def on_onnxruntime(made: Made) -> Run:
    session = inference_session(_onnx_file(made), THREADS, unpacking=made.precision in UNPACKED)
    return lambda feeds: session.run(None, feeds)[0]


def on_openvino(made: Made) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    request = ov.Core().compile_model(made.velocity, "CPU", settings).create_infer_request()
    return lambda feeds: request.infer(feeds)[0].copy()


def _onnx_file(made: Made) -> Path:
    if made.velocity.suffix != ".onnx":
        raise ValueError("OpenVINO's own format")
    return made.velocity


class Bench:
    """The bundle, the states, and what is measured on them."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle, self.folder, self.manifest = bundle, folder, bundle.manifest
        self.paths = {role: bundle.files.graph_path(bundle.manifest.graph(role, "fp32")) for role in ROLES}
        self.models = {role: ir.load(path) for role, path in self.paths.items()}
        self.sites = [site for role, model in self.models.items() for site in find_sites(model, role)]
        self.float32 = Made(folder / "float32.onnx", self.paths["condition"])
        onnx.save(onnx.load(self.paths["velocity"]), self.float32.velocity)
        recipe = default_recipe(bundle.files)
        alone = default_recipe(bundle.files, budgets=BUDGETS[-1:], classes=recipe.classes * len(recipe.budgets))
        with bundle.prepare("onnxruntime", "fp32", THREADS) as session:
            self.stratified, self.full = (collect(session, each, lambda *_: None, print) for each in (recipe, alone))
        exact = self.session(self.float32, on_onnxruntime(self.float32))
        null = self.manifest.model.null_label
        self.cases = [
            (latents, x, t, labels, exact.velocity(x, t, labels, latents))
            for latents in BUDGETS
            for x, t, y in guided_states(exact, latents, SEED)
            for labels in (y, np.full_like(y, null))
        ]

    def session(self, made: Made, velocity: Run) -> Session:
        return Graphs(self.manifest, on_onnxruntime(Made(made.condition, made.condition)), velocity)

    def feeds(self, states: CalibrationSet) -> list[Feeds]:
        """A set as the velocity graph takes it, a stratum a batch."""
        exact = on_onnxruntime(Made(self.paths["condition"], self.paths["condition"]))
        return [
            {
                "x": states.x[rows],
                "modulations": exact({"t": states.t[rows], "y": states.y[rows]}),
                "latents": np.zeros(stratum.latents, np.int64),
            }
            for stratum, rows in states.strata()
        ]

    def evidence(self, states: CalibrationSet) -> Evidence:
        seen = observe(*(self.paths[role] for role in ROLES), self.sites, states, THREADS, lambda _: None)
        return Evidence(model_of_bundle(self.bundle.files, "fp32"), states, seen)

    def worst_db(self, session: Session) -> list[str]:
        """Of each budget the PSNR of the state that is farthest off, and of those the least."""
        found: dict[int, list[float]] = {latents: [] for latents in BUDGETS}
        for latents, x, t, y, right in self.cases:
            velocity = session.velocity(x, t, y, latents)
            found[latents] += [psnr_db(one, wanted) for one, wanted in zip(velocity, right, strict=True)]
        least = [min(values) for values in found.values()]
        return [f"{value:.1f}" for value in (*least, min(least))]


def table(title: str, *columns: str) -> None:
    print(f"\n### {title}\n\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def reason(error: Exception) -> str:
    words = f"{type(error).__name__}: {' '.join(str(error).split())}".replace("|", "/")
    return words if len(words) <= REASON_LENGTH else f"{words[:REASON_LENGTH]}..."


def make_all(bench: Bench) -> Iterator[tuple[str, Made]]:
    """Run every tool; print what it took."""
    table("What each tool takes and leaves", "tool", "seconds", "size of the velocity graph to float32's", "refusal")
    feeds = bench.feeds(bench.stratified)
    tools: dict[str, Callable[[], Made]] = {
        name: partial(_other, bench, tool, feeds, bench.folder / f"{index}.onnx")
        for index, (name, tool) in enumerate(TOOLS.items())
    }
    for name, tool in (tools | {f"elit-edge {scheme}": partial(_ours, bench, scheme) for scheme in OURS}).items():
        begun = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                made = tool()
        except Exception as error:  # noqa: BLE001  what a tool cannot do is its row of the table
            row(name, f"{time.perf_counter() - begun:.0f}", "", reason(error))
            continue
        seconds = time.perf_counter() - begun
        row(name, f"{seconds:.0f}", f"{_bytes(made.velocity) / _bytes(bench.float32.velocity):.3f}", "")
        yield name, made


def _other(bench: Bench, tool: Tool, feeds: list[Feeds], target: Path) -> Made:
    return Made(tool(bench.float32.velocity, feeds, target), bench.paths["condition"])


def _ours(bench: Bench, scheme: Precision) -> Made:
    target = bench.folder / f"{scheme}.elit"
    manifest = calibrate(bench.bundle, scheme, target, pictures=0, threads=THREADS, accept_anyway=True).manifest
    condition, velocity = (target / manifest.graph(role, scheme).path for role in ROLES)
    return Made(velocity, condition, scheme)


def _bytes(path: Path) -> int:
    """Of a graph and the weights that it uses."""
    return onnx.load(path).ByteSize() if path.suffix == ".onnx" else path.with_suffix(".bin").stat().st_size


def compare_tools(bench: Bench) -> None:
    made = {"float32": bench.float32, **dict(make_all(bench))}
    ways = {"In floats": in_floats, "ONNX Runtime": on_onnxruntime, "OpenVINO": on_openvino}
    calls: dict[str, Callable[[], object]] = {}
    for way, opened in ways.items():
        table(f"{way}: PSNR of the worst state to float32", "result", *BY_BUDGET)
        for name, each in made.items():
            try:
                run = opened(each)
                session = bench.session(each, run)
                row(name, *bench.worst_db(session))
            except Exception as error:  # noqa: BLE001  what a runtime cannot open is a row of the table
                row(name, reason(error))
                continue
            for latents, x, t, y, _ in bench.cases:
                if latents in TIMED and way != "In floats":
                    feeds = {
                        "x": x[:1],
                        "modulations": session.condition(t[:1], y[:1]),
                        "latents": np.zeros(latents, np.int64),
                    }
                    calls[f"{name}, {way} J = {latents}"] = partial(run, feeds)
    load = load_average()
    ms = {key: float(np.median(values)) for key, values in interleaved(calls, REPEATS).items()}
    columns = [f"{way} J = {latents}" for way in list(ways)[1:] for latents in TIMED]
    table(
        f"Time of a pass, ms (times faster than float32): batch 1, {THREADS} threads, medians of {REPEATS} interleaved "
        f"runs, load before {load:.1f}",
        "result",
        *columns,
    )
    for name in made:
        found = [(ms.get(f"{name}, {column}"), ms[f"float32, {column}"]) for column in columns]
        row(name, *("" if own is None else f"{own:.2f} ({exact / own:.2f})" for own, exact in found))


def compare_sets(bench: Bench) -> None:
    """Stratified by budget against the full budget alone, of as many states."""
    table("States to calibrate on; products in floats", "result", "states", *BY_BUDGET)
    for words, states in (("all budgets", bench.stratified), ("full budget alone", bench.full)):
        path = ort_static(bench.float32.velocity, bench.feeds(states), bench.folder / "one.onnx", **INPUTS)
        models = {role: ir.load(path) for role, path in bench.paths.items()}
        scheme = static(bench.sites, partial(weight_of, models), bench.evidence(states), lambda *_: None)
        stored = stored_weights(models, scheme.plans, scheme.scalings)
        tensors = write_tensors(bench.folder / "one.safetensors", stored, lambda _: None)
        for role, model in models.items():
            rewrite(model, scheme.plans, tensors)
            ir.save(model, bench.folder / f"{role}.onnx")
        ours = Made(bench.folder / "velocity.onnx", bench.folder / "condition.onnx")
        theirs = Made(path, bench.paths["condition"])
        for name, made in (("ORT static, MinMax, 7 bits, inputs alone", theirs), ("elit-edge int8", ours)):
            row(f"{name}: {words}", str(len(states.x)), *bench.worst_db(bench.session(made, in_floats(made))))


def ablate(bench: Bench) -> None:
    """What each part of ours is worth, simulated in PyTorch: no layer is left out, conditions stay in float32."""
    table("Parts of elit-edge int8; products in floats", "parts", *BY_BUDGET)
    evidence = bench.evidence(bench.stratified)
    every: Mapping[str, Any] = {"WORTH_CLIPPING": 1.0}
    unsmoothed: Mapping[str, Any] = {**every, "ALPHAS": (None, None)}
    least: Mapping[str, Any] = {"ALPHAS": (None, None), "OBSERVERS": {"min-max": OBSERVERS["min-max"]}}
    ours: Mapping[str, Any] = {}
    parts = {
        "min-max": (least, False, SEVEN_BITS),
        "best observer": (unsmoothed, False, SEVEN_BITS),
        "best observer, smoothing": (every, False, SEVEN_BITS),
        "best observer, smoothing, compensated rounding": (every, True, SEVEN_BITS),
        "min-max, compensated rounding": (least, True, SEVEN_BITS),
        "as it is: clipping must pay 2.5 times": (ours, True, SEVEN_BITS),
        "the same with weights of 8 bits": (ours, True, INT8),
    }
    for name, (replaced, compensating, grid) in parts.items():
        layers = {}
        for site in bench.sites:
            if site.role == "condition":
                continue
            seen, weight = evidence.seen[site.name], weight_of(bench.models, site)
            with patch.multiple(search, **replaced) if replaced else contextlib.nullcontext():
                choice = search.choose(seen, weight, foldable=folds(site, bench.manifest.model))
            s = np.ones(site.inputs, np.float32) if choice.smoothing is None else choice.smoothing
            smooth, rows = weight * s[:, None], torch.from_numpy(np.concatenate(seen.rows) / s)
            scales, entering = channel_scales(smooth, grid), search.rounded_rows(rows, choice.bound).numpy()
            rounded = compensated(smooth, entering, scales, grid) if compensating else nearest(smooth, scales, grid)
            layers[site.name] = Simulated(rounded, choice)
        with simulated(evidence.model, layers):
            row(name, *bench.worst_db(ModelSession(evidence.model, bench.manifest, THREADS)))


def main() -> None:
    logging.disable()
    ort.set_default_logger_severity(3)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF would send events with it
    print(f"{describe()}; load before the start {load_average():.1f}")
    with tempfile.TemporaryDirectory() as name, resources.as_file(resources.files("elit_edge.data")) as data:
        folder = Path(name)
        export(read_checkpoint(data / "sample.safetensors"), folder / "sample.elit", check=False)
        bench = Bench(Bundle.open(folder / "sample.elit"), folder)
        compare_tools(bench)
        compare_sets(bench)
        ablate(bench)


if __name__ == "__main__":
    main()
