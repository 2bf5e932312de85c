"""Draw every class at several budgets with a torch model, from the same noise: what training has learned so far.

Usage: python tools/sample_sheet.py build/training/state.pt sheet.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from elit_edge.generation import generate
from elit_edge.manifest import Manifest, Provenance, SamplerDefaults
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.pictures import captioned_sheet
from elit_edge.runtimes.reference.session import ModelSession
from train_sample import read_average

BUDGETS = (1, 2, 4, 8, 16)


def session_of(model: DiffusionTransformer) -> ModelSession:
    """A model in memory behind the runtime contract, without a bundle."""
    manifest = Manifest(
        name="sample",
        model=model.config,
        sample_space="pixels",
        ladder=(),
        graphs=(),
        files={},
        sampler=SamplerDefaults(),
        verification=None,
        provenance=Provenance(source="", source_sha256="0" * 64, elit_edge="", torch=torch.__version__, opset=1),
    )
    return ModelSession(model.eval(), manifest)


def draw(
    model: DiffusionTransformer, path: Path, *, scale: float, seeds: Sequence[int], budgets: Sequence[int]
) -> None:
    """A row a class; columns: budgets, and within a budget the seeds."""
    session, count = session_of(model), model.config.num_classes
    made = []
    for latents in budgets:
        for seed in seeds:
            images = generate(session, list(range(count)), latents=latents, scale=scale, seed=seed).images
            assert images is not None
            made.append(images)
    images = np.stack(made, axis=1)
    captions = [f"{latents}" for latents in budgets for _ in seeds]
    captioned_sheet(images.reshape(-1, *images.shape[2:]), model.config.class_names or (), captions).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--scale", type=float, default=2.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--pictures", type=Path, default=Path("build/emoji"))
    args = parser.parse_args()
    model = read_average(args.state, args.pictures)
    draw(model, args.sheet, scale=args.scale, seeds=args.seeds, budgets=args.budgets)


if __name__ == "__main__":
    main()
