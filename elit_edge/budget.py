"""Budgets: how many latents a group keeps, and what that costs. Pure arithmetic.

A budget is an integer, 1..P latents a group. It is not a speed-up factor: only the core shrinks with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from elit_edge.errors import BudgetError
from elit_edge.model_config import FREQUENCY_CHANNELS, ModelConfig

FRACTION_SLACK = 1e-9
"""Keeps J = P · (J / P) from falling to J - 1 in floating point (it would at P = 36 and 49)."""


def check_latents(latents: int, config: ModelConfig) -> int:
    """Return `latents` if the model has that budget.

    Raises:
        BudgetError: it is outside 1..P.
    """
    if not isinstance(latents, Integral) or not 1 <= latents <= config.latents_per_group:
        raise BudgetError(f"latents = {latents}: this model keeps 1 to {config.latents_per_group} latents a group")
    return latents


def latents_from_fraction(fraction: float, config: ModelConfig) -> int:
    """The latents a group that a fraction of the full budget keeps: floor(P · fraction).

    Raises:
        BudgetError: the fraction is outside (0, 1], or keeps no latent.
    """
    latents = int(config.latents_per_group * fraction + FRACTION_SLACK) if 0 < fraction <= 1 else 0
    if latents < 1:
        raise BudgetError(
            f"budget {fraction}: a fraction of the {config.latents_per_group} latents a group "
            f"must be in (0, 1] and keep at least one; the least is {1 / config.latents_per_group:g}"
        )
    return latents


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one pass for one sample: two a multiply-add, matrix products and attention alone."""

    condition: int
    """What depends on (t, y) alone: embedders and modulations."""
    velocity: int
    """The rest: what a step costs once the conditions of a run are known."""

    @property
    def total(self) -> int:
        return self.condition + self.velocity


def flops(config: ModelConfig, latents: int) -> Flops:
    """The work of one pass at a budget.

    The published figures (490.9 and 253.1 GFLOPs: XL/2 at 256 px, batch of two, budgets 1 and 1/8) count the same, and
    Read's query once more for every group: a constant of the weights, which costs nothing in a compiled graph.
    """
    check_latents(latents, config)
    width = config.hidden_size
    spatial = config.head_depth + config.tail_depth
    multiply_adds = 2 * config.tokens * config.patch_channels * width + spatial * _block(config, config.tokens)
    if config.is_elastic:
        kept = config.groups * latents
        written = config.tokens if config.write_latents == "all" else kept
        multiply_adds += config.core_depth * _block(config, kept)
        multiply_adds += _cross_attention(
            config, asked=0, read=config.tokens, source_per_group=config.latents_per_group
        )
        multiply_adds += _cross_attention(
            config, asked=config.tokens, read=written, source_per_group=written // config.groups
        )
        multiply_adds += 2 * 2 * config.tokens * width * width
    embedders = (FREQUENCY_CHANNELS + width) * width
    return Flops(condition=2 * (embedders + width * config.modulation_size), velocity=2 * multiply_adds)


def _block(config: ModelConfig, length: int) -> int:
    """Multiply-adds of one block over a sequence: qkv, scores, mix, projection, MLP."""
    width = config.hidden_size
    return length * width * (4 * width + 2 * length + 2 * config.mlp_hidden_size)


def _cross_attention(config: ModelConfig, *, asked: int, read: int, source_per_group: int) -> int:
    """Multiply-adds of Read's or Write's attention: `asked` queries projected, `read` keys and values, all N mixed."""
    width = config.hidden_size
    mixed = 2 * config.tokens * source_per_group * width
    return width * width * (asked + 2 * read + config.tokens) + mixed


def parameters(config: ModelConfig) -> int:
    """Weights of the model, buffers of positions included, as they stand in a bundle."""
    width, hidden = config.hidden_size, config.mlp_hidden_size
    block = width * (4 * width + 4) + 2 * width * hidden + hidden + width
    embedders = FREQUENCY_CHANNELS * width + width + width * width + width + (config.num_classes + 1) * width
    ends = (config.patch_channels + 1) * width + (width + 1) * config.patch_channels + config.tokens * width
    modulation = config.modulation_size * (width + 1)
    total = config.depth * block + embedders + ends + modulation
    if config.is_elastic:
        attention = width * (4 * width + 4) + 2 * width
        positions = (3 * config.latents_per_group + config.tokens) * width
        total += 2 * (attention + 2 * width * width) + positions
    return total
