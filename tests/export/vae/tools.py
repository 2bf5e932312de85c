"""Small VAEs with random weights, saved by diffusers itself, and what diffusers makes of latents."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from elit_edge.export.vae.source import VaeSource
from elit_edge.manifest import Decoder
from elit_edge.model_config import ModelConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIDE = 24
"""S: more than a tile of 16."""
CONFIG = ModelConfig(
    architecture="elit-sit",
    image_size=SIDE,
    in_channels=4,
    patch_size=2,
    hidden_size=32,
    num_heads=2,
    mlp_ratio=4.0,
    head_depth=1,
    core_depth=1,
    tail_depth=1,
    group_size=2,
    num_classes=5,
)


WAYS = {"down": "DownEncoder", "up": "UpDecoder"}


def diffusers_class(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return getattr(diffusers, name)


def save_kl(folder, **settings):
    """An AutoencoderKL whose norms and biases are no ones and zeros."""
    blocks = settings.pop("block_out_channels", (16, 32))
    kinds = {f"{way}_block_types": (f"{name}Block2D",) * len(blocks) for way, name in WAYS.items()}
    settings = {"norm_num_groups": 8, "latent_channels": 4, "shift_factor": 0.25, "scaling_factor": 0.5, **settings}
    return _save(folder, "AutoencoderKL", block_out_channels=blocks, **kinds, **settings)


def save_tiny(folder, blocks=2, **settings):
    widths, counts = (16,) * blocks, (1,) * blocks
    return _save(
        folder,
        "AutoencoderTiny",
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=counts,
        num_decoder_blocks=counts,
        **settings,
    )


def _save(folder, name, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = diffusers_class(name)(**settings)
        with torch.no_grad():
            for value in vae.parameters():
                if value.ndim == 1:
                    value.add_(torch.randn(value.shape) * 0.1)
    vae.save_pretrained(folder)
    return folder


def change(folder, edit):
    """Edit the stored weights, a dict, in place."""
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)
    return folder


def diffusers_decode(folder, z):
    """What diffusers makes of z, run directly."""
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    vae = diffusers_class(name).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        return vae.decode(torch.from_numpy(z)).sample.numpy()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Made:
    """A decoder, and all that it was made of."""

    source: Path
    vae: VaeSource
    bundle: Path
    decoder: Decoder
    samples: np.ndarray

    @property
    def graph(self) -> Path:
        return self.bundle / self.decoder.path
