"""What the model card says in numbers and pictures: loss by budget on vendors never seen, nearest neighbours, sheets.

Usage: python tools/sample_card.py elit_edge/data/sample.safetensors elit_edge/data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from elit_edge.generation import generate
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.model.training import gap, stratified_times, velocity_loss
from elit_edge.model.transformer import DiffusionTransformer
from emoji_batches import EmojiBatches
from sample_model import draw, session_of

BUDGETS = (1, 2, 4, 8, 16)
DRAWS = 8
CHUNK = 173
DRAWN_PER_CLASS = 10
SOME = 500
"""Training pictures that are looked at."""


@torch.inference_mode()
def losses_by_budget(model: DiffusionTransformer, pictures: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Mean v-loss of each picture over the same times and noises at every budget: [pictures]."""
    generator = torch.Generator().manual_seed(0)
    found = {latents: torch.zeros(len(pictures)) for latents in BUDGETS}
    for _ in track(range(DRAWS), description="loss"):
        t = stratified_times(len(pictures), generator)
        noise = torch.randn(pictures.shape, generator=generator)
        for latents, total in found.items():
            parts = zip(*(v.split(CHUNK) for v in (pictures, labels, t, noise)), strict=True)
            losses = torch.cat([velocity_loss(model, x0, y, ts, eps, latents) for x0, y, ts, eps in parts])
            total.add_(losses / DRAWS)
    return found


def print_losses(title: str, found: dict[int, Tensor]) -> None:
    print(f"{title}: v-loss", ", ".join(f"J = {latents}: {loss.mean():.4f}" for latents, loss in found.items()))
    for fewer, more in ((1, 4), (4, 16)):
        print("  falls from J = {} to {} by {:.4f} ± {:.4f}".format(fewer, more, *gap(found[fewer], found[more])))


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """Root mean square distance of each picture to its nearest training picture, pixels in 0..1."""
    flat = (pictures.flatten(1) / 2, training.flatten(1) / 2)
    return torch.cdist(*flat).min(dim=1).values / flat[0].shape[1] ** 0.5


def drawn(model: DiffusionTransformer) -> Tensor:
    labels = [label for label in range(model.config.num_classes) for _ in range(DRAWN_PER_CLASS)]
    return torch.from_numpy(generate(session_of(model), labels, seed=7).samples).float().clamp(-1, 1)


def words(values: Tensor) -> str:
    low, middle, high = np.quantile(values.numpy(), (0.05, 0.5, 0.95))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("build/emoji"))
    args = parser.parse_args()
    model = read_checkpoint(args.weights).model().requires_grad_(requires_grad=False)
    held_out = EmojiBatches(args.pictures / "held_out.npz", 1, 0)
    training = EmojiBatches(args.pictures / "train.npz", 1, 0)
    everything = training.plain(torch.arange(len(training.labels)))
    generator = torch.Generator().manual_seed(1)
    some = torch.randperm(len(everything), generator=generator)[:SOME]
    bent = training.augment(training.images[some], training.labels[some], generator)
    unseen = held_out.plain(torch.arange(len(held_out.labels)))
    print_losses("vendors never seen", losses_by_budget(model, unseen, held_out.labels))
    print_losses("training pictures, bent anew", losses_by_budget(model, bent, training.labels[some]))
    print("nearest training picture, median (5% to 95%):")
    print("  drawn", words(distances(drawn(model), everything)))
    print("  a training picture, bent as in training", words(distances(bent, everything)))
    print("  a vendor never seen", words(distances(unseen, everything)))
    draw(model, args.folder / "sample-budgets.png", scale=2.5, seeds=(5,), budgets=BUDGETS)
    draw(model, args.folder / "sample-seeds.png", scale=2.5, seeds=range(8), budgets=(16,))


if __name__ == "__main__":
    main()
