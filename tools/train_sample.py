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
from emoji_batches import EmojiBatches
from sample_model import draw, read_average, sample_config

SAVE_SECONDS = 120
SHEET_STEPS = 500
SHEET_BUDGETS = (1, 4, 16)


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
            if trainer.step % SHEET_STEPS == 0:
                trainer.save(state)
                sheet = args.run / f"sheet-{trainer.step:06d}.png"
                draw(read_average(state, args.pictures), sheet, scale=2.5, seeds=(0, 1), budgets=SHEET_BUDGETS)
    trainer.save(state)


if __name__ == "__main__":
    main()
