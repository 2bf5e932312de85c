"""What both layouts share: the parts of a transformer in MIL, with channels on an axis of the layout's choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from elit_edge.export.mil.library import coremltools
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.to_coreml.weights import Float, Weights, identifier
from elit_edge.export.to_coreml.writer import Writer
from elit_edge.model.layers import NORM_EPSILON, RMS_EPSILON
from elit_edge.model_config import ModelConfig

INT8_MOST = 127
LEAST_POSITIVE = 2.0**-24
"""float16's least number above zero."""
LEAST_SCALE = 2.0**-14
"""float16's least number of full precision."""

Var = Any
"""A variable of a MIL function; coremltools has no types."""


class Layout(ABC):
    """Writes into the MIL function that is open. Tokens and groups have the layout's own shapes."""

    channels: int
    """The axis of the channels."""

    def __init__(self, config: ModelConfig, weights: Weights, recipe: Recipe, batch: int) -> None:
        self.config, self.weights, self.recipe, self.batch = config, weights, recipe, batch
        self.builder = Writer(marked=recipe.marked)
        self.dtype: Float = np.float32 if recipe.precision == "fp32" else np.float16

    @abstractmethod
    def modulation_shape(self) -> tuple[int, ...]:
        """Of the modulations as the function takes them."""

    @abstractmethod
    def embed(self, x: Var) -> Var:
        """x [B, C, S, S] -> tokens in group order, without positions."""

    @abstractmethod
    def unembed(self, tokens: Var, name: str) -> Var:
        """Tokens with (channel, row, column) of their patch -> [B, C, S, S]."""

    @abstractmethod
    def vectors(self, modulations: Var) -> list[Var]:
        """The modulations, one vector of D channels after another, to be broadcast over tokens."""

    @abstractmethod
    def product(self, x: Var, weight: Var, bias: Var | None, name: str) -> Var:
        """Weight times channels plus bias."""

    @abstractmethod
    def matrix(self, name: str) -> Var:
        """A weight for `product`."""

    @abstractmethod
    def table(self, name: str) -> Var:
        """An array [tokens, D], to be added to tokens."""

    @abstractmethod
    def channel_vector(self, name: str) -> Var:
        """An array [D], to be broadcast."""

    @abstractmethod
    def group_queries(self, name: str) -> Var:
        """An array [P, D], for every group."""

    @abstractmethod
    def attend(self, query: Var, key: Var, value: Var, name: str) -> Var:
        """Attention inside each group of the layout, heads split and merged."""

    @abstractmethod
    def to_groups(self, tokens: Var, count: int) -> Var:
        """Tokens -> groups of `count` each."""

    @abstractmethod
    def to_tokens(self, groups: Var) -> Var:
        """Groups -> tokens."""

    @abstractmethod
    def part_of_groups(self, groups: Var, begin: int, end: int) -> Var:
        """The latents begin .. end - 1 of every group."""

    @abstractmethod
    def join_groups(self, first: Var, second: Var) -> Var:
        """The latents of both, group by group."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, numbers have the precision of that part."""
        before = self.dtype
        if name in self.recipe.wide:
            self.dtype = np.float32
        self.builder.part = name
        try:
            yield
        finally:
            self.dtype, self.builder.part = before, ""

    def number(self, value: float) -> Any:
        return self.dtype(value)

    def cast(self, x: Var) -> Var:
        """In the precision of this part."""
        ct = coremltools()
        wanted = "fp32" if self.dtype is np.float32 else "fp16"
        if x.dtype == ct.converters.mil.mil.types.string_to_builtin(wanted):
            return x
        return self.builder.cast(x=x, dtype=wanted)

    def linear(self, x: Var, name: str) -> Var:
        """A layer of the model by name, with its bias where it has one."""
        bias = f"{name}.bias"
        biased = self.weights.constant(bias, self.dtype) if bias in self.weights else None
        entering = self._rounded(x, f"{name}.in")
        return self._rounded(self.product(entering, self.matrix(f"{name}.weight"), biased, name), f"{name}.out")

    def _rounded(self, x: Var, name: str) -> Var:
        """To eight bits and back, where the ranges say so: what a chip multiplies in eight bits."""
        if self.recipe.marked:
            return self.builder.identity(x=x, name=name)
        if self.recipe.ranges is None or self.dtype is not np.float16:
            return x
        scale = self.dtype(max(self.recipe.ranges[identifier(name)].greatest / INT8_MOST, LEAST_SCALE))
        integers = self.builder.quantize(input=x, scale=scale, output_dtype="int8", name=f"{name}_q")
        return self.builder.dequantize(input=integers, scale=scale, name=f"{name}_dq")

    def mlp(self, x: Var, name: str) -> Var:
        hidden = self.builder.gelu(x=self.linear(x, f"{name}.fc1"), mode="TANH_APPROXIMATION")
        return self.linear(hidden, f"{name}.fc2")

    def add(self, x: Var, y: Var) -> Var:
        return self.builder.add(x=x, y=y)

    def modulate(self, x: Var, shift: Var, scale: Var) -> Var:
        """LayerNorm without affine, then x · scale + shift."""
        mb = self.builder
        normed = mb.layer_norm(x=x, axes=[self.channels], epsilon=self.number(NORM_EPSILON))
        return mb.add(x=mb.mul(x=normed, y=self.cast(scale)), y=self.cast(shift))

    def gated(self, gate: Var, x: Var) -> Var:
        return self.builder.mul(x=x, y=gate)

    def chunks(self, x: Var, count: int) -> list[Var]:
        """The channels in equal parts."""
        return list(self.builder.split(x=x, num_splits=count, axis=self.channels))

    def rms_norm(self, x: Var, name: str) -> Var:
        """x / (|x| + epsilon) · scale. The sum of squares stands in the graph, so that its range can be seen."""
        mb = self.builder
        factor = self.recipe.prescale.get(name, 1.0) if self.dtype is np.float16 else 1.0
        if factor != 1.0:
            x = mb.mul(x=x, y=self.number(factor))
        root = self.config.hidden_size**0.5
        total = mb.reduce_sum(x=mb.mul(x=x, y=x), axes=[self.channels], keep_dims=True, name=f"{name}_sum")
        length = mb.add(x=mb.sqrt(x=total), y=self.number(max(factor * root * RMS_EPSILON, LEAST_POSITIVE)))
        scale = self.channel_vector(f"{name}.scale")
        return mb.mul(x=mb.real_div(x=x, y=length), y=scale)
