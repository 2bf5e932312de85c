"""A bundle's decoders against PyTorch once more, on what the model makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from elit_edge.bundle_files import BundleFiles
from elit_edge.errors import CheckpointError
from elit_edge.export.vae.checking import check_parity
from elit_edge.export.vae.source import VaeSource
from elit_edge.manifest import Decoder
from elit_edge.runtimes.contract import FloatArray


def decoder_of(files: BundleFiles, vae: VaeSource) -> Decoder:
    """The decoder that was made of a VAE.

    Raises:
        BundleError: the bundle has no decoder of that kind.
        CheckpointError: it was made of another VAE.
    """
    decoder = files.manifest.decoder(vae.kind)
    if not made_of(decoder, vae):
        raise CheckpointError(
            f"{vae.name} (scale {vae.scale:g}, shift {vae.shift:g}) is not what the {decoder.kind} decoder of "
            f"{files.manifest.name} was made of; give {decoder.source} (scale {decoder.scale:g}, "
            f"shift {decoder.shift:g})"
        )
    return decoder


def made_of(decoder: Decoder, vae: VaeSource) -> bool:
    """Whether it was: by the digest of the weights, and by the numbers that its config says."""
    made = decoder.kind, decoder.source_sha256, decoder.scale, decoder.shift
    return made == (vae.kind, vae.sha256, vae.scale, vae.shift)


def verify_decoders(
    files: BundleFiles,
    decoders: Sequence[tuple[Decoder, VaeSource]],
    samples: FloatArray,
    report: Callable[[float], None] = lambda _: None,
) -> tuple[tuple[Decoder, float], ...]:
    """Hold decoders to the gate of their precision.

    Args:
        files: the bundle.
        decoders: each with what it was made of.
        samples: [N, C, S, S] float32, as the model makes them.
        report: told the share done of each decoder, 0..1.

    Returns:
        Each decoder, with PSNR of its worst picture in dB.

    Raises:
        ParityError: a picture is too far from PyTorch's.
        PictureError: PyTorch itself makes no picture of a sample.
    """
    return tuple(
        (decoder, check_parity(files.path(decoder.path), decoder.precision, vae, samples, report))
        for decoder, vae in decoders
    )
