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


FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What one velocity of one sample takes once the conditions of its run are known, in float32."""

    flops: int
    """Two for each multiply-add of matrix products and attention; nothing else is counted."""
    weight_bytes: int
    """All weights of the graph, each once, whatever the budget."""
    activation_bytes: int
    """What those products read and write beside weights, each value once a product: the least that a runtime moves
    which fuses all else into them. What follows from weights alone is a constant, and does not count."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
        )


NO_WORK = Work(flops=0, weight_bytes=0, activation_bytes=0)


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
    width = config.hidden_size
    embedders = (FREQUENCY_CHANNELS + width) * width
    return Flops(
        condition=2 * (embedders + width * config.modulation_size), velocity=velocity_work(config, latents).flops
    )


def guided_flops(config: ModelConfig, latents: int, weak_latents: int) -> int:
    """Of a guided step for one sample: the pass at its budget and the weak one, each with its condition.

    The weak pass of cfg is at the same budget, that of ccfg and of autoguidance at a small one.
    """
    return flops(config, latents).total + flops(config, weak_latents).total


def guidance_saving(config: ModelConfig, latents: int, weak_latents: int) -> float:
    """What a weak pass at `weak_latents` (ccfg, autoguidance) saves of the work of a step under cfg, 0..1."""
    return 1 - guided_flops(config, latents, weak_latents) / guided_flops(config, latents, latents)


def velocity_work(config: ModelConfig, latents: int) -> Work:
    """The work of a step at a budget. An export counts its graphs and holds them to this.

    Raises:
        BudgetError: the model has no such budget.
    """
    check_latents(latents, config)
    width, tokens = config.hidden_size, config.tokens
    parts = [
        _weights(tokens * width),
        _product(tokens, config.patch_channels, width),
        *[_block(config, tokens)] * (config.head_depth + config.tail_depth),
        _product(tokens, width, config.patch_channels),
    ]
    if config.is_elastic:
        kept = config.groups * latents
        written = tokens if config.write_latents == "all" else kept
        parts += [_read(config), *[_block(config, kept)] * config.core_depth, _write(config, written)]
    return sum(parts, NO_WORK)


def _block(config: ModelConfig, length: int) -> Work:
    """One block over a sequence: qkv, attention, projection, MLP."""
    width, hidden = config.hidden_size, config.mlp_hidden_size
    return (
        _product(length, width, 3 * width)
        + _attention(width, asked=length, read=length, seen=length)
        + _product(length, width, width)
        + _product(length, width, hidden)
        + _product(length, hidden, width)
    )


def _read(config: ModelConfig) -> Work:
    """Its queries, projected and normed, are a constant."""
    width, tokens, latents = config.hidden_size, config.tokens, config.latents_per_group
    queries, positions, query_projection = latents * width, (latents + tokens) * width, (width + 1) * width
    attention = _attention(width, asked=tokens, read=tokens, seen=latents, asked_is_constant=True)
    return _weights(queries + positions + query_projection) + attention + _cross(config, tokens)


def _write(config: ModelConfig, read: int) -> Work:
    """`read`: latents of all groups that it attends to."""
    width, tokens = config.hidden_size, config.tokens
    attention = _attention(width, asked=tokens, read=read, seen=read // config.groups)
    return (
        _weights(config.latents_per_group * width) + _product(tokens, width, width) + attention + _cross(config, read)
    )


def _cross(config: ModelConfig, read: int) -> Work:
    """What Read and Write have in common: keys and values, norms, projection, MLP."""
    width, tokens = config.hidden_size, config.tokens
    mlp = _product(tokens, width, width, bias=False)
    return _product(read, width, 2 * width) + _weights(2 * width) + _product(tokens, width, width) + mlp + mlp


def _product(rows: int, inputs: int, outputs: int, *, bias: bool = True) -> Work:
    """A linear layer on so many rows."""
    return Work(
        flops=2 * rows * inputs * outputs,
        weight_bytes=FLOAT32_BYTES * (inputs * outputs + (outputs if bias else 0)),
        activation_bytes=FLOAT32_BYTES * rows * (inputs + outputs),
    )


def _attention(width: int, *, asked: int, read: int, seen: int, asked_is_constant: bool = False) -> Work:
    """`asked` queries, `read` keys and values, of which each query sees `seen`: scores and mix."""
    moved = (1 if asked_is_constant else 2) * asked + 2 * read
    return Work(flops=2 * 2 * asked * seen * width, weight_bytes=0, activation_bytes=FLOAT32_BYTES * moved * width)


def _weights(numbers: int) -> Work:
    """Weights that no product of a step multiplies."""
    return Work(flops=0, weight_bytes=FLOAT32_BYTES * numbers, activation_bytes=0)


def parameters(config: ModelConfig) -> int:
    """Weights of the model, buffers of positions included, as they stand in a bundle."""
    width = config.hidden_size
    embedders = (FREQUENCY_CHANNELS + 1) * width + (width + 1) * width + (config.num_classes + 1) * width
    modulation = config.modulation_size * (width + 1)
    velocity = velocity_work(config, config.latents_per_group).weight_bytes // FLOAT32_BYTES
    return velocity + embedders + modulation
