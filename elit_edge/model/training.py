"""Training with tail dropping: each step keeps the first J latents of every group, J drawn for the whole batch.

The draw orders the latents by importance, so that one set of weights serves every budget. Source: arXiv 2603.12245.
A short run never finds the latent path from the published zero initialisation, whose Read and Write start as the
identity: `initialise` opens both. Everything random follows from the seed and the step number, so that a run that was
killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elit_edge.errors import CheckpointError
from elit_edge.model.muon import Muon
from elit_edge.model.transformer import DiffusionTransformer

READ_ATTENTION_GATE, READ_MLP_GATE, BLOCK_GATE = 1.0, 0.5, 0.3
WRITE_GAIN = 0.5

Batch = tuple[Tensor, Tensor]
"""Samples [B, C, S, S] float32 in about [-1, 1], labels [B] int64."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Learning rate: a linear warm-up, a plateau, a linear decay over the last `decay` of the steps."""

    steps: int
    batch: int
    learning_rate: float = 1.5e-3
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 0.01
    momentum: float = 0.95
    label_drop: float = 0.1
    ema: float = 0.9999
    clip: float = 1.0
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * rise * max(0.0, fall)

    def ema_at(self, step: int) -> float:
        """The averaging window grows with the run, so that the first steps are soon forgotten."""
        return min(self.ema, (1 + step) / (20 + step))


def initialise(model: DiffusionTransformer, seed: int) -> None:
    """Random weights with an open latent path; the final layer alone starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.label.weight, std=0.02, generator=generator)
    for layer in (model.time.fc1, model.time.fc2):
        nn.init.normal_(layer.weight, std=0.02, generator=generator)
    for block in model.all_blocks():
        _open_gates(block.modulation, BLOCK_GATE, BLOCK_GATE)
    if model.read is not None and model.write is not None:
        _open_gates(model.read.modulation, READ_ATTENTION_GATE, READ_MLP_GATE)
        for place in (model.read.position, model.read.latent_position, model.write.position):
            nn.init.normal_(place, std=0.02, generator=generator)
        nn.init.normal_(model.read.queries, std=1.0, generator=generator)
        model.write.attn.proj.weight.data.mul_(WRITE_GAIN)
        model.write.mlp.fc2.weight.data.mul_(WRITE_GAIN)
    nn.init.zeros_(model.final_modulation.weight)
    nn.init.zeros_(model.final.weight)


def _open_gates(modulation: nn.Linear, attention: float, mlp: float) -> None:
    nn.init.zeros_(modulation.weight)
    with torch.no_grad():
        vectors = modulation.bias.view(6, -1)
        vectors[2], vectors[5] = attention, mlp


def stratified_times(count: int, generator: torch.Generator) -> Tensor:
    """t = sigmoid(normal), one draw from each of `count` equally likely strata: [count], in random order."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = torch.sigmoid(torch.special.ndtri(strata.clamp(1e-6, 1 - 1e-6)))
    return t[torch.randperm(count, generator=generator)]


def velocity_loss(model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor, latents: int) -> Tensor:
    """Mean squared error of the velocity a sample: [B]."""
    mix = t[:, None, None, None]
    predicted = model((1 - mix) * x0 + mix * noise, t, y, latents)
    return F.mse_loss(predicted.float(), noise - x0, reduction="none").mean(dim=(1, 2, 3))


class Trainer:
    """One run: model, average, optimizers and the step reached."""

    def __init__(self, model: DiffusionTransformer, recipe: Recipe, batches: Callable[[int], Batch]) -> None:
        """`batches(step)` gives the same batch for the same step, whatever came before."""
        self.model, self.recipe, self.batches = model, recipe, batches
        self.device = next(model.parameters()).device
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        matrices, rest = self._split_parameters()
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, recipe.learning_rate, recipe.momentum, recipe.weight_decay),
            torch.optim.AdamW(rest, recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        ]
        self.step = 0

    def _split_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The matrices inside blocks, Read and Write; and all the rest."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            inside = name.startswith(("blocks.", "read.", "write.")) and name.endswith(".weight")
            (matrices if inside and "modulation" not in name else rest).append(parameter)
        return matrices, rest

    def advance(self) -> tuple[int, float]:
        """Take one step. Returns: the latents a group it kept, and its loss."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        x0, y = self.batches(self.step)
        latents = int(torch.randint(1, self.model.config.latents_per_group + 1, (), generator=generator))
        dropped = torch.rand(len(y), generator=generator) < recipe.label_drop
        y = torch.where(dropped, self.model.config.null_label, y)
        t = stratified_times(len(y), generator)
        noise = torch.randn(x0.shape, generator=generator)
        x0, y, t, noise = (value.to(self.device) for value in (x0, y, t, noise))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            loss = velocity_loss(self.model, x0, y, t, noise, latents).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._update_average()
        self.step += 1
        return latents, loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        current = self.model.state_dict()
        names = [name for name, value in self.average.items() if value.is_floating_point()]
        weight = 1 - self.recipe.ema_at(self.step)
        torch._foreach_lerp_([self.average[n] for n in names], [current[n] for n in names], weight)

    def save(self, path: Path) -> None:
        """Write all that `resume` needs; a kill in between leaves the file before it."""
        part = path.with_suffix(".part")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "average": self.average, "optimizers": optimizers, "step": self.step}
        torch.save(state, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from `save`.

        Raises:
            CheckpointError: the file is not one of this model's runs.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average = state["average"]
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]
        except Exception as error:  # a damaged or foreign file makes torch raise whatever it meets
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{path} is no run of this model ({reason}); start afresh in another folder"
            ) from error


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are worth their rounding: on GPUs, and on CPUs with units for them."""
    if device.type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001  (torch has no public question for it)


def gap(losses: Tensor, reference: Tensor) -> tuple[float, float]:
    """Paired difference of two loss vectors [n]: its mean and the half-width of its 95% interval."""
    difference = losses - reference
    return difference.mean().item(), 1.96 * difference.std().item() / math.sqrt(len(difference))
