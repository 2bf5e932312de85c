"""The layout for the Neural Engine: channels first, 1x1 convolutions, an attention of its own for every head.

Source of the form: Apple, "Deploying Transformers on the Apple Neural Engine", 2022. Where it runs cannot be seen here.
"""

from __future__ import annotations

import numpy as np

from elit_edge.export.to_coreml.layout import Layout, Var

SCORES, VALUES = "bkgc,bcgq->bkgq", "bcgk,bkgq->bcgq"
"""Products of channels and of keys that MIL has as they are: the group stays where a row of an image would be."""
SCALE_TRIES = 2048


class AneLayout(Layout):
    """Tokens are [B, D, 1, N], groups [B, D, G, P]."""

    channels = 1

    def modulation_shape(self) -> tuple[int, ...]:
        return self.batch, self.config.modulation_size, 1, 1

    def embed(self, x: Var) -> Var:
        mb, config = self.builder, self.config
        kernel = self.weights.constant("patch.kernel", self.dtype)
        bias = self.weights.constant("patch.bias", self.dtype)
        grid = mb.conv(x=x, weight=kernel, bias=bias, strides=[config.patch_size] * 2, name="patch")
        return mb.reshape(
            x=self._swapped(grid, to_groups=True), shape=[self.batch, config.hidden_size, 1, config.tokens]
        )

    def unembed(self, tokens: Var, name: str) -> Var:
        mb, side = self.builder, self.config.tokens_per_side
        grid = self._swapped(tokens, to_groups=False)
        planes = mb.reshape(x=grid, shape=[self.batch, self.config.patch_channels, side, side])
        return mb.pixel_shuffle(x=planes, upscale_factor=self.config.patch_size, name=name)

    def _swapped(self, x: Var, *, to_groups: bool) -> Var:
        """Raster order <-> group order: rows of a square and squares of a row change places."""
        mb, group = self.builder, self.config.group_size
        if group == 1:
            return x
        squares = self.config.tokens_per_side // group
        inner = [group, squares] if to_groups else [squares, group]
        split = mb.reshape(x=x, shape=[self.batch * x.shape[1] * squares, *inner, group])
        return mb.transpose(x=split, perm=[0, 2, 1, 3])

    def vectors(self, modulations: Var) -> list[Var]:
        return self.chunks(modulations, self.config.modulation_size // self.config.hidden_size)

    def matrix(self, name: str) -> Var:
        return self.weights.matrix(name, self.dtype, trailing=2)

    def product(self, x: Var, weight: Var, bias: Var | None, name: str) -> Var:
        return self.builder.conv(x=x, weight=weight, name=name, **({} if bias is None else {"bias": bias}))

    def table(self, name: str) -> Var:
        return self.weights.constant(name, self.dtype, self.weights.array(name).T[None, :, None])

    def channel_vector(self, name: str) -> Var:
        return self.weights.constant(name, self.dtype, self.weights.array(name)[None, :, None, None])

    def group_queries(self, name: str) -> Var:
        return self.builder.tile(x=self.table(name), reps=[self.batch, 1, self.config.groups, 1])

    def attend(self, query: Var, key: Var, value: Var, name: str) -> Var:
        mb, heads = self.builder, self.config.num_heads
        of_query, of_key = self._scales()
        key = key if of_key == 1 else mb.mul(x=key, y=self.number(of_key))
        queries = self._heads(mb.mul(x=query, y=self.number(of_query)), axis=1)
        keys = self._heads(mb.transpose(x=key, perm=[0, 3, 2, 1]), axis=3)
        found = []
        for q, k, v in zip(queries, keys, self._heads(value, axis=1), strict=True):
            weights = mb.softmax(x=mb.einsum(values=(k, q), equation=SCORES), axis=1)
            found.append(mb.einsum(values=(v, weights), equation=VALUES))
        merged = found[0] if heads == 1 else mb.concat(values=found, axis=1)
        return self.linear(merged, name)

    def _scales(self) -> tuple[float, float]:
        """What queries and keys are multiplied by: two numbers of the graph's type, since one is not near enough to the
        root of a head size such as 72."""
        wanted = (self.config.hidden_size // self.config.num_heads) ** -0.5
        if float(self.dtype(wanted)) == wanted:  # numpy would round the right side, too
            return wanted, 1.0
        of_query = wanted * np.linspace(0.5, 1, SCALE_TRIES).astype(self.dtype).astype(np.float64)
        of_query = of_query.astype(self.dtype).astype(np.float64)
        of_key = (wanted / of_query).astype(self.dtype).astype(np.float64)
        nearest = np.abs(of_query * of_key - wanted).argmin()
        return float(of_query[nearest]), float(of_key[nearest])

    def _heads(self, x: Var, axis: int) -> list[Var]:
        heads = self.config.num_heads
        return [x] if heads == 1 else list(self.builder.split(x=x, num_splits=heads, axis=axis))

    def to_groups(self, tokens: Var, count: int) -> Var:
        shape = [self.batch, self.config.hidden_size, self.config.groups, count]
        return self.builder.reshape(x=tokens, shape=shape)

    def to_tokens(self, groups: Var) -> Var:
        return self.builder.reshape(x=groups, shape=[self.batch, self.config.hidden_size, 1, -1])

    def part_of_groups(self, groups: Var, begin: int, end: int) -> Var:
        size = [*groups.shape[:3], end - begin]
        start = [0, 0, 0, begin]
        return self.builder.slice_by_size(x=groups, begin=start, size=size)

    def join_groups(self, first: Var, second: Var) -> Var:
        return self.builder.concat(values=[first, second], axis=3)
