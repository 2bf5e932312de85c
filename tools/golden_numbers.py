"""Golden vectors of everything between a seed and a picture: noise, times, solvers, guidance, whole runs, float16.

Runs use a model of plain arithmetic, which tests/ElitEdgeTests/FakeModel.swift repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from elit_edge.budget import flops
from elit_edge.generation import Generation, Progress, generate
from elit_edge.manifest import Budget, Graph, Manifest, Provenance, SamplerDefaults
from elit_edge.model_config import ModelConfig
from elit_edge.noise import NoiseStream
from elit_edge.runtimes.contract import FloatArray, IntArray, Session
from elit_edge.sampling import Array, Guidance, Move, Solver, solve, times

NOTE = "Written by tools/golden_vectors.py with the Python package."
Json = dict[str, Any]

SEEDS = (0, 1, 20260312, 2**64 - 1)
TINY = ModelConfig(
    architecture="elit-sit",
    image_size=4,
    in_channels=3,
    patch_size=2,
    hidden_size=4,
    num_heads=1,
    mlp_ratio=1.0,
    head_depth=0,
    core_depth=1,
    tail_depth=0,
    group_size=2,
    num_classes=3,
    class_names=("dog", "heart", "clock"),
)


def tiny_manifest() -> Manifest:
    """Of a model that does not exist; its graph and provenance are there because a manifest has them."""
    nothing = "0" * 64
    path = "onnx/model.onnx"
    graph = Graph(role="model", precision="fp32", latents=None, path=path, weights=path, inputs=(), outputs=())
    return Manifest(
        name="tiny",
        model=TINY,
        sample_space="pixels",
        ladder=tuple(
            Budget(latents=latents, velocity_flops=flops(TINY, latents).velocity)
            for latents in range(1, TINY.latents_per_group + 1)
        ),
        graphs=(graph,),
        files={},
        sampler=SamplerDefaults(steps=3, scale=2.0),
        verification=None,
        provenance=Provenance(
            source="none", source_sha256=nothing, elit_edge="0", torch="0", onnx_ir="0", onnxscript="0", opset=23
        ),
    )


class FakeSession(Session):
    """Not a model: sums and products in float32, each exact or rounded the same everywhere."""

    def __init__(self) -> None:
        super().__init__(tiny_manifest(), "fake", "fp32")

    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        slopes = (np.arange(TINY.modulation_size) % 7).astype(np.float32) * np.float32(0.125) - np.float32(0.375)
        return t[:, None] * slopes + ((y - 1).astype(np.float32) * np.float32(0.25))[:, None]

    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        flat = x.reshape(len(x), -1)
        slopes = (np.arange(flat.shape[1]) % 5).astype(np.float32) * np.float32(0.5) - np.float32(1)
        kept = np.float32(1) - np.float32(0.25) / np.float32(latents)
        pull = (modulations[:, 1] + modulations[:, -1])[:, None]
        return (flat * kept + pull * slopes + flat * flat * np.float32(0.03125)).reshape(x.shape)

    def close(self) -> None:
        pass


def noise() -> Json:
    """Bits as numpy's Philox gives them, and normal numbers; of each seed the second picture's too."""
    streams = [
        {"seed": hexadecimal(seed), "picture": picture, "bits": [hexadecimal(each) for each in raw]}
        for seed in SEEDS
        for picture in (0, 1)
        for raw in [np.random.Philox(key=np.array([seed, picture], np.uint64)).random_raw(11)]
    ]
    draws = []
    for seed in SEEDS:
        stream = NoiseStream(seed, 2)
        sizes = (6, 5, 1, 8)
        draws.append(
            {
                "seed": hexadecimal(seed),
                "sizes": sizes,
                "numbers": [stream.draw((size,)).ravel().tolist() for size in sizes],
            }
        )
    return {"note": NOTE, "streams": streams, "draws": draws}


def hexadecimal(number: int) -> str:
    """64 bits, which JSON's readers do not agree about as numbers."""
    return f"{int(number):016x}"


def sampling() -> Json:
    """Times of all solvers, and short integrations that leave times out."""
    grids = [
        {"solver": solver, "steps": steps, "times": times(solver, steps).tolist()}
        for solver in get_args(Solver)
        for steps in (1, 2, 3, 7, 25)
    ]
    paths = ((1, 2, 3, 4, 5), (1, 3, 5), (5,), (2, 3))
    runs = [integrated(solver, path) for solver in get_args(Solver) for path in paths]
    return {"note": NOTE, "grids": grids, "runs": runs}


def integrated(solver: Solver, path: Iterable[int]) -> Json:
    """v = x / 2 + t · latents / 8 in float32, five steps planned, those of `path` taken."""
    grid = times(solver, 5)
    stream = NoiseStream(7, 2)
    start = NoiseStream(3, 2).draw((2,))
    moves = [Move(to, 1 + to % 3, 1) for to in path]

    def field(x: Array, index: int, move: Move) -> FloatArray:
        return x.astype(np.float32) * np.float32(0.5) + np.float32(grid[index]) * np.float32(move.latents / 8)

    taken = list(solve(field, start, solver, grid, moves, lambda: stream.draw((2,))))
    return {
        "solver": solver,
        "start": start.ravel().tolist(),
        "moves": [[move.to, move.latents] for move in moves],
        "steps": [{"t": step.t, "x": step.x.ravel().tolist(), "x0": step.x0.ravel().tolist()} for step in taken],
    }


def guidance() -> Json:
    """Where guidance acts."""
    at = (0.0, 0.2, 0.2 - 1e-7, 0.2 - 1e-5, 0.5, 0.8 + 1e-7, 0.8 + 1e-5, 1.0)
    cases = []
    for kind in ("none", "cfg", "ccfg", "autoguidance"):
        for scale in (0.0, 1.0, 2.5):
            for low, high in ((0.0, 1.0), (0.2, 0.8), (0.5, 0.5)):
                chosen = Guidance(kind, scale, 1, low, high)
                active = [chosen.active(t) for t in at]
                cases.append({"kind": kind, "scale": scale, "low": low, "high": high, "active": active})
    return {"note": NOTE, "times": at, "cases": cases}


RUNS: tuple[Json, ...] = (
    {"labels": [0]},
    {"labels": [2, 0, 2], "latents": 2, "seed": 5},
    {"labels": [1, 2], "steps": 5, "guidance": "none", "solver": "heun", "preview_every": 2},
    {"labels": [1, 2], "steps": 4, "guidance": "cfg", "scale": 3.0, "interval": [0.3, 0.8], "solver": "heun"},
    {"labels": [1], "latents": [4, 4, 2, 1, 3], "guidance": "autoguidance", "weak_latents": 2, "preview_every": 1},
    {"labels": [0, 1], "steps": 6, "latents": 3, "solver": "euler-maruyama", "guidance": "ccfg", "seed": 2**64 - 1},
    {"labels": [0], "steps": 2, "guidance": "cfg", "scale": 1.0},
)


def generation() -> Json:
    """Whole runs over the model of plain arithmetic: from a noise that is given, and from the seed's."""
    cases = []
    for settings in RUNS:
        given = NoiseStream(11, len(settings["labels"])).draw((TINY.in_channels, TINY.image_size, TINY.image_size))
        cases += [run(settings, None), run(settings, given)]
    return {"note": NOTE, "cases": cases}


def run(settings: Json, given: Array | None) -> Json:
    told: list[Progress] = []
    out: Generation = generate(FakeSession(), **settings, noise=given, progress=told.append)
    assert out.images is not None
    return {
        "settings": {**settings, "seed": hexadecimal(settings.get("seed", 0))},
        "noise": None if given is None else given.ravel().tolist(),
        "samples": out.samples.ravel().tolist(),
        "pixels": out.images.ravel().tolist(),
        "latents": out.latents,
        "solver": out.solver,
        "guidance": out.guidance.kind,
        "scale": out.guidance.scale,
        "weak_latents": out.guidance.weak_latents,
        "drew": out.seed is not None,
        "progress": [[each.step, each.steps, each.latents] for each in told],
        "previews": [None if each.preview is None else each.preview.ravel().tolist() for each in told],
    }


def half() -> Json:
    """float16 as numpy rounds it: chosen pairs, and digests over all float16 and a comb of float32."""
    large = [65504.0, 65519.0, 65520.0, -7e4, 1e30, np.inf, -np.inf]
    small = [2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 2.0**-26, 2.0**-14 - 2.0**-25, 6.1e-5]
    between = [0.0, -0.0, 1.0, 0.1, -2.5, 1 + 2.0**-11, 1 + 3 * 2.0**-11]
    chosen = np.array([*large, *small, *between], np.float32)
    all_bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = all_bits[~np.isnan(all_bits.view(np.float16))]
    comb = (np.arange(1 << 16, dtype=np.uint32) * np.uint32(65521)).view(np.float32)
    comb = comb[~np.isnan(comb)]
    pairs = zip(chosen.view(np.uint32), rounded(chosen), strict=True)
    return {
        "note": NOTE,
        "pairs": [[hexadecimal(single)[8:], hexadecimal(rounded_)[12:]] for single, rounded_ in pairs],
        "floats_sha256": hashlib.sha256(numbers.view(np.float16).astype("<f4").tobytes()).hexdigest(),
        "halves_sha256": hashlib.sha256(rounded(comb).astype("<u2").tobytes()).hexdigest(),
    }


def rounded(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    with np.errstate(over="ignore"):  # beyond 65504 it is infinite, and meant
        return numbers.astype(np.float16).view(np.uint16)


def files() -> dict[str, Json]:
    """The content of each file."""
    return {
        "noise.json": noise(),
        "sampling.json": sampling(),
        "guidance.json": guidance(),
        "generation.json": generation(),
        "half.json": half(),
    }
