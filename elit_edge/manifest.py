"""The manifest of a bundle: the only handshake between the exporter and what runs on a device.

docs/bundle-format.md explains the fields; docs/bundle-manifest.schema.json is generated from these classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from elit_edge.budget import check_latents
from elit_edge.errors import BundleError, ConfigError
from elit_edge.labels import find
from elit_edge.model_config import Count, Digest, ModelConfig, Positive
from elit_edge.quality import QualityTable
from elit_edge.sampling import GuidanceKind, Solver
from elit_edge.verdict import Calibration

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

Role = Literal["condition", "velocity", "model"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "w8", "w4"]
"""docs/calibration.md says what each of them computes in."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class FileEntry(_Struct, frozen=True, kw_only=True):
    """One file of the bundle."""

    sha256: Digest
    bytes: Count


class TensorSpec(_Struct, frozen=True, kw_only=True):
    """One input or output of a graph; a dimension is a number, or the name of a free one ("batch", "latents")."""

    name: str
    dtype: Literal["float32", "float16", "int32", "int64"]
    shape: tuple[int | str, ...]


class Graph(_Struct, frozen=True, kw_only=True):
    """One graph over the shared weights.

    Roles: `condition` (t, y -> modulations), `velocity` (x, modulations, latents -> v) and `model`, both in one
    (x, t, y, latents -> v). A graph with a number in `latents` is specialised to that budget, and has no such input.
    """

    role: Role
    format: Literal["onnx"] = "onnx"
    precision: Precision
    latents: Positive | None
    path: str
    weights: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Range(_Struct, frozen=True, kw_only=True):
    """Sizes of a free dimension that an engine takes, and the one that it was tuned for."""

    least: Positive
    typical: Positive
    most: Positive

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most


class EngineProfile(_Struct, frozen=True, kw_only=True):
    """One set of shapes that an engine takes."""

    batch: Range
    latents: Range | None
    """None: the graph has no such input."""


class Engine(_Struct, frozen=True, kw_only=True):
    """A graph compiled for a library and for devices; it opens where all of these facts hold, and nowhere else."""

    role: Role
    precision: Precision
    library: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    """Of the library."""
    platform: str
    """Of the machine that opens it: "linux x86_64"."""
    compute_capabilities: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Of GPUs: "8.7"."""
    compiled_on: str | None
    """The GPU it was compiled on; None: compiled ahead of time, without one."""
    driver: str | None
    """The CUDA version of that machine's driver; None as above."""
    path: str
    profiles: Annotated[tuple[EngineProfile, ...], msgspec.Meta(min_length=1)]


class CoreMlFunction(_Struct, frozen=True, kw_only=True):
    """A function of a Core ML package: a graph at one budget and one batch, every shape fixed.

    Roles: `condition` (t float32 [B], y int32 [B] -> modulations [B, M]) and `velocity` (x, modulations -> v), which
    takes the modulations as [B, M, 1, 1] in the layout "ane"; their order is the same everywhere.
    """

    role: Literal["condition", "velocity"]
    package: str
    """The .mlpackage, a folder of the bundle."""
    name: str | None
    """Inside the package: "latents_04_batch_2". None: the package holds this function alone (before iOS 18)."""
    latents: Positive | None
    """None: a condition."""
    batch: Positive
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class CoreMlParity(_Struct, frozen=True, kw_only=True):
    """What the packages compute, by the evaluator of elit-edge, against PyTorch; Core ML itself did not run."""

    cases: Positive
    graph: float
    """Relative RMS of the worst case, all exact, to PyTorch with the packages' own weights: is the graph right?"""
    exact: float
    """The same to PyTorch with the model's weights."""
    stored: float
    """And with each operator's output rounded to the type that it is declared in."""
    psnr_db: float
    """Of the worst case, as stored."""
    headroom: float | None
    """float16's greatest number over the greatest that any operator gave; None for a float32 package."""


class CoreMlModel(_Struct, frozen=True, kw_only=True):
    """Packages of one layout, precision and compression: every budget at every batch, and the conditions."""

    layout: Literal["gpu", "ane"]
    """What it is meant for. "gpu": linear layers, fused attention; "ane": 1x1 convolutions, an attention a head."""
    precision: Literal["fp32", "fp16"]
    compression: Literal["int8", "int4", "lut6", "lut4", "w8a8"] | None
    """Of the weights, and with w8a8 of what enters and leaves each product."""
    ios: Literal[16, 17, 18, 26]
    """The least version that opens it, and of macOS 13, 14, 15, 26."""
    version: str
    """Of coremltools, which wrote it."""
    functions: Annotated[tuple[CoreMlFunction, ...], msgspec.Meta(min_length=1)]
    parity: CoreMlParity

    @property
    def variant(self) -> str:
        """How its numbers are stored: the compression, or the precision."""
        return self.compression or self.precision


class Tiling(_Struct, frozen=True, kw_only=True):
    """Decoding in tiles whose seams are blended, for want of memory: what it was found to change."""

    latents: Positive
    """Side of a tile, in latents."""
    overlap: Positive
    """Latents that two neighbours share."""
    psnr_db: float
    """Of the pictures in tiles against the same pictures decoded whole: the worst."""


class DecoderParity(_Struct, frozen=True, kw_only=True):
    """How near a decoder's graph is to PyTorch, on latents of the model's own trajectories where it was verified."""

    cases: Positive
    latents: Literal["trajectories", "noise"]
    """What was decoded: ends of the model's trajectories, or normal noise (with --no-verify)."""
    psnr_db: float
    """The worst."""
    headroom: float | None
    """float16's greatest number over the greatest of any node that computes in it; None for a float32 graph."""


class Decoder(_Struct, frozen=True, kw_only=True):
    """Samples in latent space -> pictures: z float32 [batch, C, height, width] -> pixels [batch, 3, f·height, f·width].

    z is sample / scale + shift; pixels are in [-1, 1] but for what the decoder overshoots. Any batch, height and width.
    """

    kind: Literal["full", "fast"]
    """"fast": a small distilled one, for previews and for pictures in a hurry."""
    layout: Literal["AutoencoderKL", "AutoencoderTiny"]
    """As diffusers names it."""
    precision: Literal["fp32", "fp16"]
    path: str
    weights: str
    scale: Annotated[float, msgspec.Meta(gt=0)]
    shift: float
    factor: Positive
    """f: pixels a side for each latent."""
    left_wide: Count
    """Nodes of an fp16 graph that compute in float32 because their numbers come near float16's greatest."""
    pixel_bytes: Positive
    """Most that a graph's values hold at once, in float32, for each pixel of the picture."""
    parity: DecoderParity
    tiling: Tiling
    source: str
    source_sha256: Digest
    """Of the file with its weights."""


class Budget(_Struct, frozen=True, kw_only=True):
    """One rung of the ladder: what a pass for one sample costs at that many latents a group."""

    latents: Positive
    velocity_flops: Count
    """Two for each multiply-add of matrix products and attention, of one step once its conditions are known."""
    weight_bytes: Positive | None = None
    """All weights of the float32 graph of a step, each once. None, as below, in a bundle of an earlier elit-edge."""
    activation_bytes: Positive | None = None
    """What the products of that graph read and write beside weights, each value once a product: with the weights, the
    least that a float32 runtime moves for a step."""

    @property
    def moved_bytes(self) -> int | None:
        """Weights and activations of a step; None where they are not known."""
        if self.weight_bytes is None or self.activation_bytes is None:
            return None
        return self.weight_bytes + self.activation_bytes


class SamplerDefaults(_Struct, frozen=True, kw_only=True):
    """What `generate` uses where it is told nothing."""

    solver: Solver = "euler"
    steps: Positive = 25
    guidance: GuidanceKind = "ccfg"
    scale: Annotated[float, msgspec.Meta(ge=0)] = 2.5
    weak_latents: Positive = 1


class WorstCase(_Struct, frozen=True, kw_only=True):
    """The point of the verification where a graph was farthest from PyTorch."""

    graph: str
    latents: Positive
    t: float
    label: Count
    psnr_db: float
    relative_l2: float


class Verification(_Struct, frozen=True, kw_only=True):
    """Parity of all graphs with PyTorch on latents of real trajectories, checked before the bundle was written."""

    gate_db: float
    cases: Positive
    runtime: str
    worst: WorstCase
    headroom: float | None = None
    """float16's greatest number over the greatest of any node that computes in it, on these trajectories; None for a
    float32 export."""


class Provenance(_Struct, frozen=True, kw_only=True):
    """Where the bundle came from: enough to tell whether it is up to date."""

    source: str
    source_sha256: Digest
    elit_edge: str
    torch: str
    onnx_ir: str
    onnxscript: str
    opset: Positive


class Manifest(_Struct, frozen=True, kw_only=True):
    """Everything that a device knows about a bundle before it opens a graph."""

    schema_version: Literal[1] = 1
    name: str
    model: ModelConfig
    sample_space: Literal["pixels", "latents"]
    """Whether a sample is a picture already, in [-1, 1], or needs a decoder."""
    ladder: Annotated[tuple[Budget, ...], msgspec.Meta(min_length=1)]
    graphs: Annotated[tuple[Graph, ...], msgspec.Meta(min_length=1)]
    files: dict[str, FileEntry]
    sampler: SamplerDefaults
    verification: Verification | None
    """None: written with --no-verify."""
    provenance: Provenance
    quality: QualityTable | None = None
    """What each plan loses; None until `elit-edge evaluate` has measured it."""
    calibrations: tuple[Calibration, ...] = ()
    """How each precision but float32 was made, and what was proven of it."""
    engines: tuple[Engine, ...] = ()
    """What `elit-edge compile` made of the graphs for GPUs of NVIDIA."""
    coreml: tuple[CoreMlModel, ...] = ()
    """What it made of the weights for Apple's devices."""
    decoders: tuple[Decoder, ...] = ()
    """At most one of each kind; none for a model of pixels."""

    @property
    def latents_per_group(self) -> int:
        """P: the full budget."""
        return self.model.latents_per_group

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(rung.latents for rung in self.ladder)

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(graph.precision for graph in self.graphs))

    def calibration(self, precision: str) -> Calibration | None:
        """How a precision was made; None for one that came from the export."""
        return next((each for each in self.calibrations if each.precision == precision), None)

    def departure(self, precision: str) -> float:
        """How far a precision's pictures were found from float32's; 0 for one that came from the export."""
        calibration = self.calibration(precision)
        return 0.0 if calibration is None else calibration.verdict.departure

    def graph(self, role: Role, precision: str, latents: int | None = None) -> Graph:
        """The graph of a role; with `latents`, the one specialised to that budget.

        Raises:
            BundleError: the bundle has none.
        """
        for graph in self.graphs:
            if (graph.role, graph.precision, graph.latents) == (role, precision, latents):
                return graph
        form = f"for {latents} latents" if latents else "for any number of latents"
        raise BundleError(
            f"bundle {self.name} has no {precision} {role} graph {form}; it has: "
            + ", ".join(f"{g.precision} {g.role} ({g.latents or 'any'})" for g in self.graphs)
        )

    def decoder(self, kind: str | None = None) -> Decoder:
        """The decoder of a kind; the full one, or else the fast one, where none is asked for.

        Raises:
            BundleError: the bundle has none.
        """
        found = {decoder.kind: decoder for decoder in self.decoders}
        for wanted in ("full", "fast") if kind is None else (kind,):
            if wanted in found:
                return found[wanted]
        raise BundleError(
            f"bundle {self.name} has no {f'{kind} ' if kind else ''}decoder; "
            + (f"it has: {', '.join(found)}" if found else "export it again with --vae DIR")
        )

    def check_latents(self, latents: int) -> int:
        return check_latents(latents, self.model)

    def label(self, wanted: str | int) -> int:
        """A class by its name, its number, or one of its synonyms in any case.

        Raises:
            RequestError: the model has no such class, or several.
        """
        return find(wanted, self.model.class_names or (), self.model.num_classes)


def encode(manifest: Manifest) -> bytes:
    """The manifest as it stands in the bundle: indented JSON, the same bytes for the same content."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def decode(data: bytes, source: str) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: it is no manifest, of another schema version, or says something impossible.
    """
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("schema_version")
        found = msgspec.json.decode(version) if version is not None else None
        if found != SCHEMA_VERSION:
            raise BundleError(
                f"{source}: schema version {found!r}, this elit-edge reads {SCHEMA_VERSION}; export the bundle again"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise BundleError(f"{source} is no bundle manifest: {error}; export the bundle again") from error
