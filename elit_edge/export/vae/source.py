"""A VAE in diffusers' layout, read safely: config.json and safetensors, of which the decoder is kept.

diffusers builds the model and gives the weights of its older versions their present names.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from elit_edge.bundle_files import sha256_of
from elit_edge.errors import CheckpointError, ConfigError, RuntimeUnavailable
from elit_edge.export.quiet import quietly
from elit_edge.export.vae.files import CONFIG_FILE, WEIGHTS_FILES, check_whole, find_files
from elit_edge.model_config import ModelConfig, Positive, read_fields
from elit_edge.runtimes.contract import FloatArray

Layout = Literal["AutoencoderKL", "AutoencoderTiny"]
KINDS: dict[Layout, Literal["full", "fast"]] = {"AutoencoderKL": "full", "AutoencoderTiny": "fast"}
PICTURE_CHANNELS = 3
PIXEL_CHANNELS = (1, 3)
"""Channels of a model whose samples are pictures already."""
FAULTS, WORDS = 3, 240
"""So many wrong names, and so many letters of what diffusers says, are told."""


class _Facts(msgspec.Struct):
    """What a VAE's config says, defaults filled in."""

    latent_channels: Positive
    out_channels: Positive
    block_out_channels: tuple[Positive, ...]
    scaling_factor: Annotated[float, msgspec.Meta(gt=0)]
    shift_factor: float | None = None
    upsampling_scaling_factor: Positive = 2
    latents_mean: object = None
    latents_std: object = None


@dataclass(frozen=True)
class VaeSource:
    """A decoder read from disk."""

    path: Path
    """The file with its weights."""
    layout: Layout
    module: nn.Module
    """The VAE without its encoder, float32, ready to be evaluated."""
    latent_channels: int
    scale: float
    shift: float
    factor: int
    """Pixels a side for each latent."""
    sha256: str
    """Of the file."""

    @property
    def kind(self) -> Literal["full", "fast"]:
        return KINDS[self.layout]

    @property
    def name(self) -> str:
        """The file and its folder; the files of all VAEs have the same name."""
        return f"{self.path.absolute().parent.name}/{self.path.name}"

    def unscaled(self, samples: FloatArray) -> FloatArray:
        """What the decoder takes, of samples [N, C, S, S] as the model makes them: z = sample / scale + shift."""
        return (samples / np.float32(self.scale) + np.float32(self.shift)).astype(np.float32)

    def decode(self, z: FloatArray) -> FloatArray:
        """Pixels [N, 3, f·h, f·w] float32 of z [N, C, h, w], in torch."""
        with torch.no_grad():
            pixels: Tensor = cast("Any", self.module).decode(torch.from_numpy(z), return_dict=False)[0]
        return pixels.numpy()


def read_vae(path: Path) -> VaeSource:
    """Read a decoder.

    Args:
        path: a folder with config.json and one .safetensors, or such a file that has a config.json beside it.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, a pickle, or of a layout that elit-edge does not know.
        RuntimeUnavailable: diffusers is missing.
    """
    weights = find_files(path)
    config = weights.with_name(CONFIG_FILE)
    layout = _layout(config)
    check_whole(weights)
    module = _load(layout, config, weights)
    facts = _facts(module, config)
    del module.encoder
    return VaeSource(
        path=weights,
        layout=layout,
        module=module.requires_grad_(False).eval(),
        latent_channels=facts.latent_channels,
        scale=facts.scaling_factor,
        shift=facts.shift_factor or 0.0,
        factor=facts.upsampling_scaling_factor ** (len(facts.block_out_channels) - 1),
        sha256=sha256_of(weights),
    )


def check_fits(vae: VaeSource, config: ModelConfig) -> None:
    """Ask before the work whether the VAE decodes what the model makes.

    Raises:
        CheckpointError: it does not.
    """
    if config.in_channels in PIXEL_CHANNELS:
        raise CheckpointError(
            f"the samples of this model have {config.in_channels} channels: they are pictures, and need no VAE; "
            "leave out --vae"
        )
    if config.in_channels != vae.latent_channels:
        raise CheckpointError(
            f"{vae.name} decodes latents of {vae.latent_channels} channels, this model makes {config.in_channels}; "
            "give the VAE that the model was trained with"
        )


def _layout(config: Path) -> Layout:
    try:
        named = read_fields(config).get("_class_name")
    except ConfigError as error:
        raise CheckpointError(f"{error}; download the VAE again, {CONFIG_FILE} and all") from error
    for layout in KINDS:
        if layout == named:
            return layout
    raise CheckpointError(
        f"{config} describes {named or 'a model without _class_name'}; elit-edge decodes with {' and '.join(KINDS)}, "
        "in the layout of diffusers"
    )


def _facts(module: nn.Module, config: Path) -> _Facts:
    try:
        facts = msgspec.convert(dict(cast("Any", module).config), _Facts)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{config}: {error}; download it again") from error
    if facts.latents_mean is not None or facts.latents_std is not None:
        raise CheckpointError(
            f"{config} has latents_mean and latents_std, which no ELIT or SiT model was trained with; "
            "give a VAE with one scaling_factor"
        )
    if facts.out_channels != PICTURE_CHANNELS:
        raise CheckpointError(f"{config}: the VAE makes {facts.out_channels} channels, a picture has 3; give another")
    return facts


def _load(layout: Layout, config: Path, weights: Path) -> nn.Module:
    """The model as diffusers reads it, from links under the names that it expects."""
    if importlib.util.find_spec("diffusers") is None:
        raise RuntimeUnavailable(
            "a VAE is read through diffusers, which is not installed; pip install 'elit-edge[vae]' "
            "(it is for the machine that exports; running a bundle does not need it)"
        )
    with quietly("diffusers"):
        import diffusers  # gives its logger a level of its own
    with quietly("diffusers"), tempfile.TemporaryDirectory(prefix="elit-edge-") as folder:
        Path(folder, CONFIG_FILE).symlink_to(config.absolute())
        Path(folder, WEIGHTS_FILES[0]).symlink_to(weights.absolute())
        try:
            module, found = getattr(diffusers, layout).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # of a config that it cannot follow diffusers raises whatever it meets
            words = shorten(str(error).replace(folder, str(weights.parent)), WORDS, placeholder=" ...")
            raise CheckpointError(
                f"{weights} is no {layout} of {config}: {words}; give weights and config of one model"
            ) from error
    faults = [
        f"{what} {', '.join(sorted(names)[:FAULTS])}{' and more' if len(names) > FAULTS else ''}"
        for what, names in (("lacks", found["missing_keys"]), ("has a foreign", found["unexpected_keys"]))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{weights} is no {layout} of {config}: it {' and '.join(faults)}; give weights and config of one model"
        )
    return cast("nn.Module", module)
