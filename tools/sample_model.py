"""The sample model: its config, its weights out of a training run, and what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from elit_edge.generation import generate
from elit_edge.manifest import Manifest, Provenance, SamplerDefaults
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig
from elit_edge.pictures import captioned_sheet
from elit_edge.runtimes.reference.session import ModelSession
from emoji_batches import SIDE, EmojiBatches


def sample_config(class_names: list[str], patch_size: int) -> ModelConfig:
    """Patch 4 (4 groups of 16 latents) trains on a CPU; patch 2 (16 groups of 16, the published topology) on a GPU."""
    return ModelConfig(
        architecture="elit-sit",
        image_size=SIDE,
        in_channels=3,
        patch_size=patch_size,
        hidden_size=192,
        num_heads=3,
        mlp_ratio=4.0,
        head_depth=1,
        core_depth=6,
        tail_depth=1,
        group_size=4,
        num_classes=len(class_names),
        class_names=tuple(class_names),
    )


def read_average(state: Path, pictures: Path) -> DiffusionTransformer:
    """The averaged weights of a run, in a model that is ready to be evaluated."""
    class_names = EmojiBatches(pictures / "train.npz", 1, 0).class_names
    average = torch.load(state, map_location="cpu", weights_only=True)["average"]
    patch_size = round((average["patch.weight"].shape[1] / 3) ** 0.5)
    model = DiffusionTransformer(sample_config(class_names, patch_size))
    model.load_state_dict(average)
    return model.requires_grad_(requires_grad=False).eval()


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
        provenance=Provenance(
            source="", source_sha256="0" * 64, elit_edge="", torch="", onnx_ir="", onnxscript="", opset=1
        ),
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
