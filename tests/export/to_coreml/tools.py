"""Helpers of these tests that are no fixtures: small models, manifests of no bundle, packages in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file

from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.export.mil.reading import MilPackage
from elit_edge.export.to_coreml.checking import check
from elit_edge.export.to_coreml.evaluated import Packages, evaluated_session
from elit_edge.export.to_coreml.observing import Observed, observe, observed_cases
from elit_edge.export.to_coreml.package import Emission, write_conditions, write_velocities
from elit_edge.export.to_coreml.recipe import Recipe
from elit_edge.export.to_coreml.weights import Weights, arrays_of
from elit_edge.export.verify import reference_cases
from elit_edge.manifest import (
    Budget,
    CoreMlFunction,
    CoreMlParity,
    FileEntry,
    Graph,
    Manifest,
    Provenance,
    SamplerDefaults,
)
from elit_edge.model.transformer import DiffusionTransformer
from elit_edge.model_config import ModelConfig

MICRO = {
    "architecture": "elit-sit",
    "image_size": 8,
    "in_channels": 3,
    "patch_size": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "head_depth": 1,
    "core_depth": 1,
    "tail_depth": 1,
    "group_size": 2,
    "num_classes": 5,
}
"""4 groups of 4 latents."""
METADATA = {"description": "a test", "author": "nobody", "license": "none", "version": "0"}


def micro_config(**changes) -> ModelConfig:
    return ModelConfig(**{**MICRO, **changes})


def random_model(config, seed=0) -> DiffusionTransformer:
    """Weights of trained size; those at zero or one in a new model are random, too."""
    generator = torch.Generator().manual_seed(seed)
    model = DiffusionTransformer(config)
    model.load_state_dict(
        {
            name: torch.randn(value.shape, generator=generator) * (value.shape[-1] ** -0.5 if value.ndim > 1 else 0.3)
            for name, value in model.state_dict().items()
        }
    )
    return model.requires_grad_(False).eval()


def manifest_of(config, budgets=None) -> Manifest:
    """What a bundle of this model would say, as far as packages are concerned."""
    graphs = tuple(
        Graph(
            role=role,
            precision="fp32",
            latents=None,
            path=f"onnx/{role}.onnx",
            weights="onnx/weights.safetensors",
            inputs=(),
            outputs=(),
        )
        for role in ("condition", "velocity")
    )
    return Manifest(
        name="micro",
        model=config,
        sample_space="pixels",
        ladder=tuple(
            Budget(latents=latents, velocity_flops=latents)
            for latents in budgets or range(1, config.latents_per_group + 1)
        ),
        graphs=graphs,
        files={
            name: FileEntry(sha256="0" * 64, bytes=0)
            for name in ("onnx/condition.onnx", "onnx/velocity.onnx", "onnx/weights.safetensors")
        },
        sampler=SamplerDefaults(),
        verification=None,
        provenance=Provenance(
            source="micro.safetensors",
            source_sha256="ab" * 32,
            elit_edge="0",
            torch="0",
            onnx_ir="0",
            onnxscript="0",
            opset=20,
        ),
    )


def emission_of(model, recipe, **arrays) -> Emission:
    """What is to be written of a model; `arrays` stand in the place of the model's own, dots as two underscores."""
    own = arrays_of(model) | {name.replace("__", "."): value for name, value in arrays.items()}
    return Emission(model.config, Weights(own, recipe.compression, recipe.ios), recipe, METADATA)


@dataclass(frozen=True)
class Written:
    """Packages of one model in a folder."""

    model: DiffusionTransformer
    folder: Path
    recipe: Recipe
    functions: tuple[CoreMlFunction, ...]

    @property
    def manifest(self):
        return manifest_of(self.model.config)

    def session(self, mode="exact", observe=None):
        packages = Packages(self.folder)
        return evaluated_session(self.manifest, packages, self.functions, self.recipe.variant, mode, observe)

    def package(self, name="velocity") -> MilPackage:
        return MilPackage.open(self.folder / f"{name}.mlpackage")

    def held(self) -> CoreMlParity:
        """By the gate of their variant."""
        budgets = sorted({function.latents for function in self.functions if function.latents})
        cases = reference_cases(self.model, self.manifest, budgets)
        return check(self.manifest, self.folder, self.functions, self.recipe.variant, cases)

    def weight_bytes(self, name="velocity") -> int:
        return (self.folder / f"{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size

    def operations(self, name="velocity"):
        """Of every function, those that compute while it runs."""
        package = self.package(name)
        return [
            operation
            for function in package.functions
            for operation in package.program(function).operations
            if not operation.type.startswith("constexpr_")
        ]


def write(model, recipe, folder, budgets, batches=(1,), emission=None, *, conditions=True) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    emission = emission or emission_of(model, recipe)
    functions = write_velocities(emission, folder, budgets, batches=batches)
    if conditions:
        functions = (write_conditions(emission, folder), *functions)
    return Written(model, folder, recipe, functions)


def observed(model, recipe, manifest) -> Observed:
    return observe(emission_of(model, recipe), manifest, observed_cases(model, manifest), lambda _: None)


def states(config, rows, seed=1):
    """x, t, y of some rows, the null class among them."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, config.in_channels, config.image_size, config.image_size)).astype(np.float32)
    return x, np.linspace(1, 0, rows, dtype=np.float32), np.arange(rows)[::-1] % (config.num_classes + 1)


def torch_velocity(model, x, t, y, latents):
    with torch.inference_mode():
        return model(torch.tensor(x), torch.tensor(t), torch.tensor(y), latents).numpy()


def relative_rms(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


def write_bundle(folder, model, budgets) -> Path:
    """A bundle as `export` writes it, but for its graphs, which nothing here opens: they are no ONNX."""
    graphs = folder / "onnx"
    graphs.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, graphs / "weights.safetensors")
    for role in ("condition", "velocity"):
        (graphs / f"{role}.onnx").write_bytes(b"no graph")
    manifest = manifest_of(model.config, budgets)
    write_manifest(folder, msgspec.structs.replace(manifest, files=file_entries(folder)))
    return folder


def reseal(folder):
    """Write the digests of what is there now into the manifest, as who means to deceive would."""
    manifest = BundleFiles.checked_before(folder).manifest
    write_manifest(folder, msgspec.structs.replace(manifest, files=file_entries(folder)))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
