"""elit-edge: compile elastic diffusion transformers for devices, and run them there at the budget that fits.

>>> bundle = elit_edge.Bundle.open("sample.elit")
>>> with bundle.prepare(runtime="auto") as session:
...     out = elit_edge.generate(session, labels=["heart"], steps=20, latents=4)
"""

from elit_edge import device, errors
from elit_edge.bundle import Bundle
from elit_edge.deadline import DeadlineReport
from elit_edge.decoding import LatentDecoder
from elit_edge.generation import Generation, Progress, generate
from elit_edge.manifest import Manifest
from elit_edge.model_config import ModelConfig
from elit_edge.runtimes.contract import Session
from elit_edge.version import __version__

__all__ = [
    # open and inspect
    "Bundle",
    "Manifest",
    "ModelConfig",
    # run
    "Session",
    "LatentDecoder",
    "generate",
    "Generation",
    "Progress",
    "DeadlineReport",
    # what this machine is
    "device",
    # what can go wrong
    "errors",
    "__version__",
]
