"""Checkpoints of the published sizes with random weights, in the authors' own file format.

python benchmarks/xl_checkpoint.py 256 xl.pt      # 11 GB: model, ema, opt, args, steps
python benchmarks/xl_checkpoint.py vae folder     # an autoencoder of SD-VAE's sizes
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from elit_edge.model.published_keys import to_published
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

SCALE = 0.02
"""Of random weights: as a trained transformer has them, so that numbers neither vanish nor overflow."""
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
"""sd-vae-ft-ema and -mse. Source: their config.json."""


def xl_config(pixels: int) -> ModelConfig:
    """ELIT-SiT-XL/2 for 256 or 512 pixels."""
    return ModelConfig(
        architecture="elit-sit",
        image_size=pixels // 8,
        in_channels=4,
        patch_size=2,
        hidden_size=1152,
        num_heads=16,
        mlp_ratio=4.0,
        head_depth=8,
        core_depth=16,
        tail_depth=4,
        group_size=pixels // 64,
        num_classes=1000,
    )


def training_args(config: ModelConfig, name: str = "ELIT-SiT-XL/2") -> argparse.Namespace:
    """What the authors' training leaves in its files, as far as it is read."""
    return argparse.Namespace(
        model=name,
        resolution=config.image_size * 8,
        num_classes=config.num_classes,
        encoder_depth=config.head_depth,
        elit_group_size=config.group_size,
        elit_max_mask_prob=1 - 1 / config.latents_per_group,
        elit_read_depth=1,
        elit_write_depth=1,
        qk_norm=False,
        path_type="linear",
    )


def write_checkpoint(path: Path, config: ModelConfig, name: str = "ELIT-SiT-XL/2") -> None:
    """Four copies of the weights go into the file, and none has to fit into memory: they lie in files of their own."""
    with torch.device("meta"):
        wanted = dict(to_published(DiffusionTransformer(config).state_dict(), config))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copies = {part: dict(_mapped(Path(folder, part), wanted)) for part in ("ema", "model", "first", "second")}
        generator = torch.Generator().manual_seed(0)
        for key, tensor in copies["ema"].items():
            tensor.normal_(0, SCALE, generator=generator)
            copies["model"][key].copy_(tensor)
        state = {
            number: {"step": torch.tensor(2e6), "exp_avg": copies["first"][key], "exp_avg_sq": copies["second"][key]}
            for number, key in enumerate(wanted)
        }
        content = {
            "model": copies["model"],
            "ema": copies["ema"],
            "opt": {"state": state, "param_groups": [{"lr": 1e-4, "params": list(state)}]},
            "args": training_args(config, name),
            "steps": 2_000_000,
        }
        torch.save(content, path)


def _mapped(path: Path, wanted: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of these shapes over a file that the system may write back at any time."""
    path.mkdir()
    for number, (key, tensor) in enumerate(wanted.items()):
        size = tensor.numel() * 4
        storage = torch.UntypedStorage.from_file(str(path / str(number)), shared=True, nbytes=size)
        yield key, torch.empty(0).set_(storage).view(torch.float32)[: tensor.numel()].reshape(tensor.shape)


def write_vae(folder: Path) -> None:
    """An autoencoder of SD-VAE's sizes, encoder included, in diffusers' layout."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**SD_VAE)
    folder.mkdir(parents=True)
    save_file(vae.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **SD_VAE}))


def main() -> None:
    kind, target = sys.argv[1], Path(sys.argv[2])
    if kind == "vae":
        write_vae(target)
    else:
        write_checkpoint(target, xl_config(int(kind)))


if __name__ == "__main__":
    main()
