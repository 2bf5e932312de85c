"""The files of a VAE: which one holds the weights, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from elit_edge.errors import CheckpointError
from elit_edge.model.incomplete import START_BYTES, shortfall, stand_in

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
"""The names that diffusers gives to a model's weights, the wider ones first."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def find_files(path: Path) -> Path:
    """The file with the weights at `path`, a folder or that file itself; a config.json stands beside it.

    Raises:
        CheckpointError: there is none, or several that could be meant, or pickles alone.
    """
    if path.is_dir():
        weights = _weights_in(path)
    elif path.is_file():
        if path.suffix in PICKLES:
            raise _pickle(path)
        weights = _weights_in(path.parent) if path.name == CONFIG_FILE else path
    else:
        raise CheckpointError(f"no VAE at {path}: expected a folder with {CONFIG_FILE} and a .safetensors file")
    if not weights.with_name(CONFIG_FILE).is_file():
        raise CheckpointError(f"{weights} has no {CONFIG_FILE} beside it, which says what it is; download both")
    return weights


def check_whole(path: Path) -> None:
    """Look at the beginning of a safetensors file, and at its size.

    Raises:
        CheckpointError: it is none, or lacks some of what its header announces.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
        if fault := stand_in(start) or shortfall(path):
            raise CheckpointError(f"{path} {fault}")
        with safe_open(path, framework="np"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); download it again") from error


def _weights_in(folder: Path) -> Path:
    found = sorted(each.name for each in folder.glob("*.safetensors"))
    for name in WEIGHTS_FILES:
        if name in found:
            return folder / name
    if len(found) > 1:
        raise CheckpointError(f"{folder} has several files of weights: {', '.join(found)}; give one of them")
    if found:
        return folder / found[0]
    pickles = sorted(each for each in folder.iterdir() if each.suffix in PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise CheckpointError(f"{folder} holds no .safetensors file; expected the folder of a VAE, as diffusers saves it")


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a pickle, which can run code, and was not opened; download the .safetensors file "
        "that most models offer beside it, or let diffusers save the VAE anew: save_pretrained(FOLDER)"
    )
