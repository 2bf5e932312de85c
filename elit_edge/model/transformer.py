"""ELIT-SiT and plain SiT: the velocity of a rectified flow, v(x, t, y; latents).

`condition` computes all that depends on (t, y), `velocity` the rest, `forward` is their composition. Only the core
depends on the number of latents kept, and that number is a slice: one set of weights, one code path, any budget.
Source: arXiv 2603.12245; checked against the authors' numbers in tests/model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elit_edge.model.grouping import grid_positions, patchify, to_groups, unpatchify
from elit_edge.model.layers import Block, CrossAttention, Mlp, TimestepEmbedder, modulate, time_frequencies
from elit_edge.model_config import ModelConfig


class Read(nn.Module):
    """Learned queries read each group of patches into P latents; the same queries serve every group."""

    MODULATIONS = 6

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, latents = config.hidden_size, config.latents_per_group
        self.latents = latents
        self.queries = nn.Parameter(torch.zeros(latents, width))
        self.position = nn.Parameter(torch.zeros(latents, width))
        self.latent_position = nn.Parameter(torch.zeros(config.tokens, width))
        self.attn = CrossAttention(width, config.num_heads)
        self.mlp = Mlp(width, width, bias=False)
        self.modulation = nn.Linear(width, self.MODULATIONS * width)

    def forward(self, tokens: Tensor, modulations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """tokens [B, N, D] -> patches [B, N, D], latents [B, N, D], both in group order."""
        shift_p, scale_p, gate_a, shift_m, scale_m, gate_m = modulations
        batch, count, width = tokens.shape
        patches = (tokens.reshape(batch, -1, self.latents, width) + self.position).reshape(batch, count, width)
        seen = modulate(patches, shift_p, scale_p).reshape(-1, self.latents, width)
        found = self.attn(self.queries[None], seen).reshape(batch, count, width)
        start = self.queries.expand(count // self.latents, -1, -1).reshape(count, width)
        latents = start + gate_a * found
        latents = latents + gate_m * self.mlp(modulate(latents, shift_m, scale_m))
        return patches, latents + self.latent_position


class Write(nn.Module):
    """Patches attend to the latents of their group; neither normed nor modulated."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.position = nn.Parameter(torch.zeros(config.latents_per_group, width))
        self.attn = CrossAttention(width, config.num_heads)
        self.mlp = Mlp(width, width, bias=False)

    def forward(self, patches: Tensor, latents: Tensor) -> Tensor:
        """patches [B · G, P, D], latents [B · G, P or J, D] -> [B · G, P, D]."""
        patches = patches + self.position
        patches = patches + self.attn(patches, latents)
        return patches + self.mlp(patches)


class DiffusionTransformer(nn.Module):
    """The whole model. Shapes below: B batch, C channels, S side, N tokens, D width, M `config.modulation_size`."""

    unit: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.patch = nn.Linear(config.patch_channels, width)
        positions = to_groups(grid_positions(width, config.tokens_per_side)[None], config.group_size)[0]
        self.position = nn.Parameter(positions, requires_grad=False)
        self.time = TimestepEmbedder(width)
        self.label = nn.Embedding(config.num_classes + 1, width)
        blocks = [Block(width, config.num_heads, config.mlp_hidden_size) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.read = Read(config) if config.is_elastic else None
        self.write = Write(config) if config.is_elastic else None
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, config.patch_channels)
        self.register_buffer("unit", unit_scales(config), persistent=False)

    def all_blocks(self) -> Iterator[Block]:
        """The blocks in the order of use: head, core, tail."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """t [B] in [0, 1], y [B] labels -> modulations [B, M] of every layer, in the order of use."""
        c = F.silu(self.time(t) + self.label(y))
        parts: list[Tensor] = [block.modulation(c) for block in self.all_blocks()]
        if self.read is not None:
            parts.insert(self.config.head_depth, self.read.modulation(c))
        parts.append(self.final_modulation(c))
        return torch.cat(parts, dim=-1) + self.unit

    def _vectors(self, modulations: Tensor) -> Iterator[Tensor]:
        return iter(modulations[:, None].split(self.config.hidden_size, dim=-1))

    def velocity(self, x: Tensor, modulations: Tensor, latents: int) -> Tensor:
        """x [B, C, S, S], modulations [B, M], latents kept a group 1..P -> v [B, C, S, S]."""
        config = self.config
        vectors = self._vectors(modulations)
        blocks = self.all_blocks()

        def run(tokens: Tensor, depth: int) -> Tensor:
            for _ in range(depth):
                tokens = next(blocks)(tokens, [next(vectors) for _ in range(Block.MODULATIONS)])
            return tokens

        tokens = self.patch(patchify(x, config.patch_size, config.group_size)) + self.position
        tokens = run(tokens, config.head_depth)
        if self.read is not None and self.write is not None:
            patches, all_latents = self.read(tokens, [next(vectors) for _ in range(Read.MODULATIONS)])
            batch, count, width = patches.shape
            grouped = all_latents.reshape(batch, config.groups, config.latents_per_group, width)
            kept = grouped[:, :, :latents].reshape(batch, config.groups * latents, width)
            grouped_kept = run(kept, config.core_depth).reshape(batch, config.groups, latents, width)
            if config.write_latents == "all":
                grouped_kept = torch.cat([grouped_kept, grouped[:, :, latents:]], dim=2)
            source = grouped_kept.reshape(batch * config.groups, -1, width)
            target = patches.reshape(batch * config.groups, config.latents_per_group, width)
            tokens = self.write(target, source).reshape(batch, count, width)
        tokens = run(tokens, config.tail_depth)
        shift, scale = next(vectors), next(vectors)
        patches_out = self.final(modulate(tokens, shift, scale))
        return unpatchify(patches_out, config.patch_size, config.group_size, config.in_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, latents: int) -> Tensor:
        """x [B, C, S, S], t [B], y [B], latents 1..P -> v [B, C, S, S]."""
        return self.velocity(x, self.condition(t, y), latents)


def unit_scales(config: ModelConfig) -> Tensor:
    """[M] float32: one where a scale stands in the packed modulations, zero elsewhere."""
    block, final = (0, 1, 0, 0, 1, 0), (0, 1)
    sections = [block] * (config.depth + (1 if config.is_elastic else 0)) + [final]
    flags = [float(flag) for section in sections for flag in section]
    return torch.tensor(flags, device="cpu").repeat_interleave(config.hidden_size)


def assembled(config: ModelConfig, state: Mapping[str, Tensor]) -> DiffusionTransformer:
    """The model over these very tensors, none of which is copied, ready to be evaluated.

    Raises:
        RuntimeError: they are not those of the model, by name or by shape.
    """
    with torch.device("meta"):
        model = DiffusionTransformer(config)
    model.load_state_dict(state, assign=True)
    for name, value in constants(config).items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, value, persistent=False)
    return model.requires_grad_(requires_grad=False).eval()


def constants(config: ModelConfig) -> dict[str, Tensor]:
    """The buffers that follow from the config and stand in no checkpoint, by name."""
    return {"unit": unit_scales(config), "time.frequencies": time_frequencies()}
