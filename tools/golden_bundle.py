"""Golden vectors of bundles: what stands in a real manifest, and a small bundle folder with its digests.

`sample-manifest.json` is the manifest of a real bundle, cut: the sample model after `elit-edge export` and two of
`elit-edge compile --target coreml`, with a few cells of its quality table. It is written only when such a bundle is
given; what is read from it is computed each time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from elit_edge.bundle_files import BundleFiles, file_entries, write_manifest
from elit_edge.manifest import CoreMlFunction, CoreMlModel, CoreMlParity, Manifest, TensorSpec, decode, encode
from elit_edge.quality import QualityTable
from golden_numbers import NOTE, TINY, tiny_manifest

Json = dict[str, Any]

SAMPLE = "sample-manifest.json"
CELLS = 6
ROWS = 4
"""Pairs of time and label in a call of the conditions."""
SUFFIX = ".mlpackage"
ANE, GPU = "coreml/ane-fp16", "coreml/gpu-int8"
GPU_BUDGETS = (1, 4)
PACKAGES = (
    *(f"{ANE}/{name}{SUFFIX}" for name in ("condition", "velocity")),
    *(f"{GPU}/{name}{SUFFIX}" for name in ("condition", *(f"latents_{each:02}" for each in GPU_BUDGETS))),
)
FILES = {
    "onnx/model.onnx": b"no graph",
    **{f"{package}/Manifest.json": f'{{"package": "{package}"}}\n'.encode() for package in PACKAGES},
    f"{ANE}/velocity{SUFFIX}/Data/model.mlmodel": b"no model",
    f"{ANE}/velocity{SUFFIX}/Data/weights/weight.bin": bytes(range(256)) * 300,
}
"""Names as a bundle has them, contents that only have digests."""


def cut_manifest(bundle: Path) -> Manifest:
    """The manifest of an exported sample model, small enough to be reviewed."""
    own = Path(__file__).parents[1] / "elit_edge" / "data" / "sample-quality.json"
    table = msgspec.convert(json.loads(own.read_bytes())["table"], QualityTable)
    manifest = BundleFiles.open(bundle).manifest
    table = msgspec.structs.replace(table, cells=table.cells[:CELLS])
    return msgspec.structs.replace(manifest, quality=table, graphs=manifest.graphs[:1], verification=None)


def facts(manifest: Manifest) -> Json:
    """What an app reads from a manifest."""
    model, quality = manifest.model, manifest.quality
    assert quality is not None
    return {
        "note": NOTE,
        "name": manifest.name,
        "latents_per_group": manifest.latents_per_group,
        "budgets": manifest.budgets,
        "flops": [rung.velocity_flops for rung in manifest.ladder],
        "modulation_size": model.modulation_size,
        "null_label": model.null_label,
        "class_names": model.class_names,
        "solver": manifest.sampler.solver,
        "guidance": manifest.sampler.guidance,
        "scale": manifest.sampler.scale,
        "sample_space": manifest.sample_space,
        "sizes": {name: entry.bytes for name, entry in manifest.files.items()},
        "digests": {name: entry.sha256 for name, entry in manifest.files.items()},
        "coreml": [
            {
                "variant": model.variant,
                "packages": sorted({function.package for function in model.functions}),
                "budgets": sorted({function.latents for function in model.functions if function.latents is not None}),
            }
            for model in manifest.coreml
        ],
        "quality_cells": len(quality.cells),
        "quality_distance": quality.cells[0].distance,
    }


def coreml_models() -> tuple[CoreMlModel, ...]:
    """As `elit-edge compile --target coreml` lists them, for packages that do not exist: functions of one package for
    iOS 18, a package a function at two budgets for iOS 17."""
    named = [(latents, batch, "velocity") for latents in range(1, TINY.latents_per_group + 1) for batch in (1, 2)]
    alone = [(latents, 1, f"latents_{latents:02}") for latents in GPU_BUDGETS]
    parity = CoreMlParity(cases=1, graph=0.0, exact=0.0, stored=0.0, psnr_db=120.0, headroom=None)
    return (
        CoreMlModel(
            layout="ane",
            precision="fp16",
            compression=None,
            ios=18,
            version="9.0",
            functions=_functions(ANE, named, (1, 1), "float16"),
            parity=parity,
        ),
        CoreMlModel(
            layout="gpu",
            precision="fp32",
            compression="int8",
            ios=17,
            version="9.0",
            functions=_functions(GPU, alone, (), "float32"),
            parity=parity,
        ),
    )


def _functions(
    place: str, velocities: list[tuple[int, int, str]], tail: tuple[int, ...], dtype: str
) -> tuple[CoreMlFunction, ...]:
    """The conditions and the velocities (latents, batch, package); `tail` ends the shape of the modulations."""

    def tensor(name: str, kind: str, *shape: int) -> TensorSpec:
        return msgspec.convert({"name": name, "dtype": kind, "shape": shape}, TensorSpec)

    size, sample = TINY.modulation_size, (TINY.in_channels, TINY.image_size, TINY.image_size)
    has_names = place == ANE
    condition = CoreMlFunction(
        role="condition",
        package=f"{place}/condition{SUFFIX}",
        name="condition" if has_names else None,
        latents=None,
        batch=ROWS,
        inputs=(tensor("t", "float32", ROWS), tensor("y", "int32", ROWS)),
        outputs=(tensor("modulations", dtype, ROWS, size),),
    )
    return (
        condition,
        *(
            CoreMlFunction(
                role="velocity",
                package=f"{place}/{package}{SUFFIX}",
                name=f"latents_{latents:02}{'' if batch == 1 else f'_batch_{batch}'}" if has_names else None,
                latents=latents,
                batch=batch,
                inputs=(tensor("x", dtype, batch, *sample), tensor("modulations", dtype, batch, size, *tail)),
                outputs=(tensor("velocity", dtype, batch, *sample),),
            )
            for latents, batch, package in velocities
        ),
    )


def write_bundle(folder: Path) -> None:
    """A bundle whose digests are right and whose graphs are none."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(
        folder,
        msgspec.structs.replace(tiny_manifest(), files=file_entries(folder), coreml=coreml_models()),
    )


def package_digest(manifest: Manifest, package: str) -> str:
    """Of the paths and digests of a package's files: what Swift keeps a compiled package under."""
    lines = sorted(
        (name.removeprefix(package), entry.sha256)
        for name, entry in manifest.files.items()
        if name.startswith(f"{package}/")
    )
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in lines).encode()).hexdigest()


def write(folder: Path, sample: Path | None) -> None:
    """Write all of it; the real manifest only from a bundle of the sample model."""
    if sample is not None:
        (folder / SAMPLE).write_bytes(encode(cut_manifest(sample)))
    manifest = decode((folder / SAMPLE).read_bytes(), SAMPLE)
    (folder / "manifest.json").write_text(json.dumps(facts(manifest), indent=1) + "\n", encoding="utf-8")
    write_bundle(folder / "tiny.elit")
    tiny = decode((folder / "tiny.elit" / "manifest.json").read_bytes(), "tiny.elit")
    packages = sorted({function.package for model in tiny.coreml for function in model.functions})
    digests = {package: package_digest(tiny, package) for package in packages}
    content = {"note": NOTE, "packages": digests, "files": {name: e.sha256 for name, e in tiny.files.items()}}
    (folder / "digests.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
