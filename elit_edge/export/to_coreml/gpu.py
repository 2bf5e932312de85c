"""The layout for GPUs and CPUs: tokens [B, N, D], linear layers, one fused attention for all heads."""

from __future__ import annotations

import numpy as np

from elit_edge.export.to_coreml.layout import Layout, Var
from elit_edge.export.to_coreml.recipe import FUSED_ATTENTION, Recipe
from elit_edge.export.to_coreml.weights import Float, Weights
from elit_edge.model_config import ModelConfig


class GpuLayout(Layout):
    """Tokens are [B, N, D], groups [B · G, P, D]."""

    channels = -1

    def __init__(self, config: ModelConfig, weights: Weights, recipe: Recipe, batch: int) -> None:
        super().__init__(config, weights, recipe, batch)
        self._zeros: dict[tuple[int, Float], Var] = {}

    def modulation_shape(self) -> tuple[int, ...]:
        return self.batch, self.config.modulation_size

    def embed(self, x: Var) -> Var:
        mb, patch = self.builder, self.config.patch_size
        kernel = self.weights.constant("patch.kernel", self.dtype)
        bias = self.weights.constant("patch.bias", self.dtype)
        grid = mb.conv(x=x, weight=kernel, bias=bias, strides=[patch, patch], name="patch")
        return self._swapped(mb.transpose(x=grid, perm=[0, 2, 3, 1]), to_groups=True)

    def unembed(self, tokens: Var, name: str) -> Var:
        mb, side, patch = self.builder, self.config.tokens_per_side, self.config.patch_size
        grid = self._swapped(tokens, to_groups=False)
        shape = [self.batch, side, side, self.config.patch_channels]
        planes = mb.transpose(x=mb.reshape(x=grid, shape=shape), perm=[0, 3, 1, 2])
        return mb.pixel_shuffle(x=planes, upscale_factor=patch, name=name)

    def _swapped(self, x: Var, *, to_groups: bool) -> Var:
        """Raster order <-> group order: rows of a square and squares of a row change places."""
        mb, group, width = self.builder, self.config.group_size, x.shape[-1]
        squares = self.config.tokens_per_side // group
        inner = [group, squares] if to_groups else [squares, group]
        if group > 1:
            split = mb.reshape(x=x, shape=[self.batch * squares, *inner, group * width])
            x = mb.transpose(x=split, perm=[0, 2, 1, 3])
        return mb.reshape(x=x, shape=[self.batch, self.config.tokens, width])

    def vectors(self, modulations: Var) -> list[Var]:
        mb, size = self.builder, self.config.modulation_size
        rows = mb.reshape(x=modulations, shape=[self.batch, 1, size])
        return list(mb.split(x=rows, num_splits=size // self.config.hidden_size, axis=-1))

    def matrix(self, name: str) -> Var:
        return self.weights.matrix(name, self.dtype)

    def product(self, x: Var, weight: Var, bias: Var | None, name: str) -> Var:
        if bias is None:  # coremltools would write zeros anew into every function
            bias = self.weights.constant(f"{name}.bias", self.dtype, np.zeros(weight.shape[0]))
        return self.builder.linear(x=x, weight=weight, bias=bias, name=name)

    def table(self, name: str) -> Var:
        return self.weights.constant(name, self.dtype)

    def channel_vector(self, name: str) -> Var:
        return self.weights.constant(name, self.dtype)

    def group_queries(self, name: str) -> Var:
        array = self.weights.array(name)[None]
        once = self.weights.constant(name, self.dtype, array)
        return self.builder.tile(x=once, reps=[self.batch * self.config.groups, 1, 1])

    def attend(self, query: Var, key: Var, value: Var, name: str) -> Var:
        mb = self.builder
        q, k, v = (self._heads(x) for x in (query, key, value))
        if self.recipe.ios >= FUSED_ATTENTION and not self.recipe.marked:  # the scores are there to be seen
            found = mb.scaled_dot_product_attention(query=q, key=k, value=v)
        else:
            scaled = mb.mul(x=q, y=self.number(self._size**-0.5))
            weights = mb.softmax(x=mb.matmul(x=scaled, y=k, transpose_y=True), axis=-1)
            found = mb.matmul(x=weights, y=v)
        merged = mb.transpose(x=found, perm=[0, 2, 1, 3])
        return self.linear(mb.reshape(x=merged, shape=list(query.shape)), name)

    @property
    def _size(self) -> int:
        return self.config.hidden_size // self.config.num_heads

    def _heads(self, x: Var) -> Var:
        """[n, T, D] -> [n, heads, T, D / heads]."""
        count, length, _ = x.shape
        split = self.builder.reshape(x=x, shape=[count, length, self.config.num_heads, self._size])
        return self.builder.transpose(x=split, perm=[0, 2, 1, 3])

    def to_groups(self, tokens: Var, count: int) -> Var:
        shape = [self.batch * self.config.groups, count, self.config.hidden_size]
        return self.builder.reshape(x=tokens, shape=shape)

    def to_tokens(self, groups: Var) -> Var:
        return self.builder.reshape(x=groups, shape=[self.batch, -1, self.config.hidden_size])

    def part_of_groups(self, groups: Var, begin: int, end: int) -> Var:
        size = [groups.shape[0], end - begin, groups.shape[2]]
        return self.builder.slice_by_size(x=groups, begin=[0, begin, 0], size=size)

    def join_groups(self, first: Var, second: Var) -> Var:
        return self.builder.concat(values=[first, second], axis=1)
