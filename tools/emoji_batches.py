"""Batches for the sample model: classes drawn by the root of their size, pictures bent a little, all from the step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
UNFLIPPED = ("clock", "flag")
RECOLOURED = ("heart", "flower", "house", "car")


class EmojiBatches:
    """`batches(step)` -> samples [B, 3, 32, 32] in [-1, 1] and labels [B]; the same for the same step."""

    def __init__(self, file: Path, batch: int, seed: int) -> None:
        with np.load(file) as data:
            self.images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
            self.labels = torch.from_numpy(data["labels"])
            self.class_names: list[str] = data["class_names"].tolist()
        counts = torch.bincount(self.labels, minlength=len(self.class_names)).float()
        self.weights = counts.clamp_min(1).rsqrt()[self.labels]
        self.batch, self.seed = batch, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        chosen = torch.multinomial(self.weights, self.batch, replacement=True, generator=generator)
        labels = self.labels[chosen]
        return self.augment(self.images[chosen], labels, generator), labels

    def plain(self, chosen: Tensor) -> Tensor:
        """Pictures as they are: [len(chosen), 3, 32, 32] in [-1, 1]."""
        return F.interpolate(self.images[chosen].float() / 127.5 - 1, size=SIDE, mode="area")

    def augment(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Scale .95-1.12, rotation of 4 degrees (sd), shift of a pixel, flips, and new hues for some classes."""
        count = len(images)
        pixels = images.float() / 127.5 - 1
        pixels = torch.where(self._some(labels, RECOLOURED, generator), self._new_hue(pixels, generator), pixels)
        angle = torch.randn(count, generator=generator) * np.deg2rad(4.0)
        zoom = 1 / (0.95 + 0.17 * torch.rand(count, generator=generator))
        kept = torch.tensor([self.class_names.index(name) for name in UNFLIPPED])
        flip = (torch.rand(count, generator=generator) < 0.5) & ~torch.isin(labels, kept)
        mirror = torch.where(flip, -1.0, 1.0)
        shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * 2 / SIDE
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        rows = [torch.stack([cos * mirror, -sin, shift[:, 0]], -1), torch.stack([sin * mirror, cos, shift[:, 1]], -1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
        bent = 1 - F.grid_sample(1 - pixels, grid, align_corners=False)
        return F.interpolate(bent, size=SIDE, mode="area")

    def _some(self, labels: Tensor, names: tuple[str, ...], generator: torch.Generator) -> Tensor:
        """Half of the pictures of the named classes: [B, 1, 1, 1] bool."""
        wanted = torch.tensor([self.class_names.index(name) for name in names])
        half = torch.rand(len(labels), generator=generator) < 0.5
        return (torch.isin(labels, wanted) & half)[:, None, None, None]

    @staticmethod
    def _new_hue(pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn the colour circle by a random angle around the grey axis."""
        angle = torch.rand(len(pixels), generator=generator) * 2 * np.pi
        third, cos, sin = 1 / 3, angle.cos(), angle.sin()
        a, b, c = cos + (1 - cos) * third, (1 - cos) * third - sin * third**0.5, (1 - cos) * third + sin * third**0.5
        turn = torch.stack([torch.stack([a, b, c], -1), torch.stack([c, a, b], -1), torch.stack([b, c, a], -1)], 1)
        return torch.einsum("bij,bjhw->bihw", turn, pixels).clamp(-1, 1)
