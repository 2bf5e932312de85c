"""What every runtime promises. A runtime is found and asked whether it is ready; a session holds one open bundle."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from elit_edge.bundle_files import BundleFiles
from elit_edge.costs import Profile
from elit_edge.errors import BundleError, RequestError
from elit_edge.manifest import Decoder, Manifest
from elit_edge.model_config import Count, Positive

if TYPE_CHECKING:
    from typing_extensions import Self

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ready:
    """The runtime can be used here."""

    version: str


@dataclass(frozen=True)
class Missing:
    """The runtime cannot be used here: why, and what makes it usable."""

    reason: str
    remedy: str


def library_state(package: str, remedy: str) -> Ready | Missing:
    """Whether an import package is there, whatever distribution brought it (onnxruntime-gpu, for example)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a folder of type stubs alone has no origin
        return Missing(f"the package {package} is not installed", remedy)
    try:
        return Ready(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        names = _distributions().get(package, [])
        return Ready(importlib.metadata.version(names[0]) if names else "of unknown version")


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Reads the metadata of everything that is installed: a tenth of a second."""
    return importlib.metadata.packages_distributions()


class UnitShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one unit of a device is meant to do."""

    unit: str
    """"Neural Engine", "GPU", "CPU"."""
    operators: Positive
    cost: float | None
    """Share of the expected cost, 0..1; None where the library expects none."""


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a library means to compute one part of a bundle, as it says itself; it is a plan, no measurement."""

    role: Literal["condition", "velocity"]
    latents: Positive | None
    """None: of a condition, or of every budget."""
    batch: Positive | None
    """None: of every batch."""
    units: tuple[UnitShare, ...]
    """The busiest first."""
    undecided: Count
    """Operators for which it names no unit."""


class Session(ABC):
    """One bundle, ready to compute at any budget. A context manager; not for use by two threads at once.

    Shapes: B samples, C channels, S side, M `manifest.model.modulation_size`. Arrays in are never changed, arrays out
    belong to the caller.
    """

    def __init__(self, manifest: Manifest, runtime: str, precision: str) -> None:
        self.manifest = manifest
        self.runtime = runtime
        self.precision = precision
        self.profile: Profile | None = None
        """What it was measured to cost on this device, where it was."""
        self.passed_over: tuple[str, ...] = ()
        """Why "auto" did not take the other runtimes."""

    @abstractmethod
    def condition(self, t: FloatArray, y: IntArray) -> FloatArray:
        """t [K] in [0, 1], y [K] labels or the null label -> modulations [K, M] float32, K >= 1 as large as wanted."""

    @abstractmethod
    def velocity_from(self, x: FloatArray, modulations: FloatArray, latents: int) -> FloatArray:
        """x [B, C, S, S], modulations [B, M] of `condition`, latents 1..P -> v [B, C, S, S] float32."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the session holds; closing twice is no error."""

    def placement(self) -> tuple[Placement, ...]:
        """Where the library means to compute what; empty where it does not say. May take as long as opening did.

        Raises:
            ElitEdgeError: it should say, and fails.
        """
        return ()

    def velocity(self, x: npt.ArrayLike, t: npt.ArrayLike, y: npt.ArrayLike, latents: int) -> FloatArray:
        """The velocity of a batch: dx/dt at x [B, C, S, S], t [B] in [0, 1], y [B], latents kept a group 1..P.

        Returns:
            [B, C, S, S] float32.

        Raises:
            BudgetError: `latents` is outside 1..P.
            RequestError: a shape, a label or a time that the model cannot take.
        """
        model = self.manifest.model
        self.manifest.check_latents(latents)
        sample = np.ascontiguousarray(x, np.float32)
        times = np.ascontiguousarray(t, np.float32)
        labels = np.ascontiguousarray(y, np.int64)
        wanted = (model.in_channels, model.image_size, model.image_size)
        if sample.ndim != 4 or sample.shape[1:] != wanted or len(sample) == 0:
            raise RequestError(f"x has shape {list(sample.shape)}; this model takes [B, {', '.join(map(str, wanted))}]")
        if times.shape != sample.shape[:1] or labels.shape != sample.shape[:1]:
            raise RequestError(
                f"t {list(times.shape)} and y {list(labels.shape)} must be [{len(sample)}], one a sample"
            )
        if not ((times >= 0) & (times <= 1)).all():
            raise RequestError("t must be in [0, 1]: 1 is noise, 0 the picture")
        if not ((labels >= 0) & (labels <= model.null_label)).all():
            raise RequestError(f"y must be in 0..{model.null_label}; {model.null_label} is the null class")
        return self.velocity_from(sample, self.condition(times, labels), latents)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DecoderSession(ABC):
    """One decoder of a bundle, ready to compute. A context manager; not for use by two threads at once."""

    def __init__(self, decoder: Decoder, runtime: str) -> None:
        self.decoder = decoder
        self.runtime = runtime

    @abstractmethod
    def pixels_from(self, z: FloatArray) -> FloatArray:
        """z [B, C, h, w], scaled and shifted -> pixels [B, 3, f·h, f·w] float32, which belong to the caller."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the session holds; closing twice is no error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(ABC):
    """A backend. Its module imports without the library that it wraps."""

    name: str
    remedy: str = "export the bundle again"
    """What makes it able to compute a bundle of which it can compute nothing."""

    @abstractmethod
    def check(self) -> Ready | Missing:
        """Whether it can be used here; never raises, and imports its library only if that is there."""

    @abstractmethod
    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """The precisions in which it can compute this bundle here, nearest to the model first; asked when `Ready`."""

    def settle(self, files: BundleFiles, precision: str, report: Callable[[str], None]) -> None:  # noqa: B027
        """Make what `prepare` needs on this device and the bundle does not bring, such as an engine that was compiled
        elsewhere; "auto" asks for it. May take minutes, once.

        Raises:
            ElitEdgeError: it cannot be made here; the message says why and what to do.
        """

    @abstractmethod
    def prepare(self, files: BundleFiles, precision: str, threads: int | None) -> Session:
        """Open a session on a checked bundle.

        Args:
            files: the bundle.
            precision: one of `precisions(files.manifest)`.
            threads: CPU threads of one call; None leaves it to the library.

        Raises:
            BundleError: it cannot compute the bundle in that precision, or the library refuses the graphs.
        """

    def decodes(self, decoder: Decoder) -> bool:  # noqa: ARG002
        """Whether it can compute this decoder here; asked when `Ready`."""
        return False

    def prepare_decoder(self, files: BundleFiles, decoder: Decoder, threads: int | None) -> DecoderSession:  # noqa: ARG002
        """Open a decoder of a checked bundle; of a runtime that `decodes` it.

        Raises:
            BundleError: the library refuses its graph.
        """
        raise BundleError(f"{self.name} does not decode")
