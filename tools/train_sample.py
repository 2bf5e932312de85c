"""Train the sample model on the pictures of tools/emoji_dataset.py; goes on where it was killed.

Usage: python tools/train_sample.py build/emoji build/training --steps 6000
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from elit_edge.model.training import Recipe, Trainer, initialise
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig
from emoji_batches import SIDE, EmojiBatches

SAVE_SECONDS = 120


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--patch-size", type=int, choices=(2, 4), default=4)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(steps=args.steps, batch=args.batch, ema=0.999)
    batches = EmojiBatches(args.pictures / "train.npz", recipe.batch, recipe.seed)
    model = DiffusionTransformer(sample_config(batches.class_names, args.patch_size))
    initialise(model, recipe.seed)
    trainer = Trainer(model.to(device), recipe, batches)
    args.run.mkdir(parents=True, exist_ok=True)
    state = args.run / "state.pt"
    if state.exists():
        trainer.resume(state)
    saved = time.monotonic()
    losses = torch.zeros(model.config.latents_per_group + 1)
    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=recipe.steps, completed=trainer.step, loss=float("nan"))
        while trainer.step < recipe.steps:
            latents, loss = trainer.advance()
            losses[latents] = losses[latents].lerp(torch.tensor(loss), 0.1) if losses[latents] else loss
            progress.update(task, completed=trainer.step, loss=losses[losses > 0].mean())
            if trainer.step % 100 == 0:
                print(trainer.step, " ".join(f"{value:.4f}" for value in losses[1:]), flush=True)
            if time.monotonic() - saved > SAVE_SECONDS:
                trainer.save(state)
                saved = time.monotonic()
    trainer.save(state)


if __name__ == "__main__":
    main()
