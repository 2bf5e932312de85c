"""Pack the averaged weights of a training run as the sample model that ships: safetensors, fp16, config inside.

Usage: python tools/pack_sample.py build/training/state.pt elit_edge/data/sample.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from elit_edge.model.checkpoint import config_json
from elit_edge.model.published_keys import to_published
from sample_model import read_average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("build/emoji"))
    args = parser.parse_args()
    model = read_average(args.state, args.pictures)
    published = to_published(model.state_dict(), model.config)
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in published}
    save_file(tensors, args.output, config_json(model.config))
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
