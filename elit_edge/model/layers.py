"""The building blocks that ELIT-SiT and plain SiT share.

Everything that depends on (t, y) alone reaches a block as ready vectors ("modulations", [B, 1, D] each), with the 1 of
`1 + scale` already added: the pipeline computes them for all steps of a run before the loop starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elit_edge.model_config import FREQUENCY_CHANNELS

NORM_EPSILON = 1e-6
RMS_EPSILON = 1e-5
MAX_PERIOD = 10_000.0


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then x · scale + shift: x [B, T, D], the others [B, 1, D]."""
    return F.layer_norm(x, (x.shape[-1],), eps=NORM_EPSILON) * scale + shift


class Mlp(nn.Module):
    """Linear, GELU in its tanh form, Linear."""

    def __init__(self, width: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] -> [B, heads, T, D / heads]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, T, E] -> [B, T, heads · E]."""
    batch, heads, length, size = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * size)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))


class Block(nn.Module):
    """A DiT block: adaLN-modulated self-attention and MLP. It has no positions, so the order of tokens is free."""

    MODULATIONS = 6

    def __init__(self, width: int, heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.mlp = Mlp(width, mlp_hidden, bias=True)
        self.modulation = nn.Linear(width, self.MODULATIONS * width)

    def forward(self, x: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """x [B, T, D]; modulations: shift, scale, gate of the attention, then of the MLP, [B, 1, D] each."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulations
        x = x + gate_a * self.attn(modulate(x, shift_a, scale_a))
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m))


class RmsNorm(nn.Module):
    """x / (rms(x) + epsilon) · scale over all channels: the epsilon is outside the root, unlike torch's RMSNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        rms = torch.linalg.vector_norm(exact, dim=-1, keepdim=True) * (x.shape[-1] ** -0.5)
        return (exact / (rms + RMS_EPSILON)).to(x.dtype) * self.scale


class CrossAttention(nn.Module):
    """Attention of one token set to another inside each group; query and key are RMS-normed before the head split."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.q_norm = RmsNorm(width)
        self.k_norm = RmsNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """target [B, Q, D] or [1, Q, D], source [B, K, D] -> [B, Q, D]."""
        query = split_heads(self.q_norm(self.q_proj(target)), self.heads)
        key, value = self.kv_proj(source).chunk(2, dim=-1)
        key, value = split_heads(self.k_norm(key), self.heads), split_heads(value, self.heads)
        query = query.expand(key.shape[0], -1, -1, -1)
        return self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))


def time_frequencies() -> Tensor:
    """[128] float32, from 1 down to 1 / MAX_PERIOD."""
    half = FREQUENCY_CHANNELS // 2
    return torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device="cpu") / half)


class TimestepEmbedder(nn.Module):
    """t in [0, 1] -> [B, D]: 128 cosines, 128 sines, MLP. t is not scaled."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", time_frequencies(), persistent=False)
        self.fc1 = nn.Linear(FREQUENCY_CHANNELS, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))
