"""`elit-edge compile --target coreml`, as it is typed, and what `inspect` and `verify` say of it then."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from export.to_coreml.tools import contents, micro_config, random_model, reseal, write_bundle

from elit_edge import Bundle
from elit_edge.calibration import calibrating
from elit_edge.calibration.calibrating import calibrate
from elit_edge.cli.main import main
from elit_edge.export.mil import library
from elit_edge.export.to_coreml import compiling, package
from elit_edge.manifest import CoreMlModel
from elit_edge.verdict import BudgetVerdict, Verdict

COREML = ("--target", "coreml")
QUICK = (*COREML, "--layout", "gpu", "--precision", "fp32", "--ios", "17", "--budgets", "4")


# coremltools leaves the removal of its temporary folders to the garbage collector, whenever that comes
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


def run(command, *arguments):
    return CliRunner().invoke(main, [command, *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    model = random_model(micro_config())
    return write_bundle(tmp_path_factory.mktemp("source") / "micro.elit", model, (1, 4))


@pytest.fixture
def bundle(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "micro.elit"))


def size_of(folder):
    return sum(len(data) for data in contents(folder).values()) / 1e6


def test_it_says_what_it_made_and_inspect_shows_it(bundle):
    made = run("compile", bundle, *COREML, "--compress", "lut6", "--license", "CC0-1.0", "--json")
    assert made.exit_code == 0, made.output
    model = msgspec.json.decode(made.stdout, type=CoreMlModel)
    assert (model.layout, model.variant, model.ios, len(model.functions)) == ("ane", "lut6", 18, 5)
    assert Bundle.open(bundle).manifest.coreml == (model,)
    (line,) = made.stderr.splitlines()
    words = f"coreml/ane-lut6: {size_of(bundle / 'coreml/ane-lut6'):.1f} MB, 5 functions in 2 packages, iOS 18, "
    assert line.startswith(words + "coremltools ")
    assert f"worst {model.parity.psnr_db:g} dB, relative RMS {model.parity.stored:.1e} as stored, " in line
    assert line.endswith(f"{model.parity.graph:.1e} on its own weights, float16 head-room {model.parity.headroom:g}x")
    shown = run("inspect", bundle)
    assert shown.exit_code == 0
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("core ml ane lut6"))
    assert "2 budgets at batch 1 and 2, iOS 18, coremltools " in line
    assert line.endswith(f"worst {model.parity.psnr_db:g} dB, float16 head-room {model.parity.headroom:g}x")
    rows = [row.split("│")[1:-1] for row in shown.stdout.splitlines() if ".mlpackage" in row]
    assert [[cell.strip() for cell in row[:4]] for row in rows] == [
        ["coreml/ane-lut6/condition.mlpackage", "condition package", "any", "lut6"],
        ["coreml/ane-lut6/velocity.mlpackage", "velocity package", "1 to 4", "lut6"],
    ]
    assert [int(row[4]) / 1e3 for row in rows] == [
        pytest.approx(size_of(bundle / row[0].strip()), abs=6e-4) for row in rows
    ]


def test_below_ios_18_it_says_that_weights_are_copied(bundle):
    made = run("compile", bundle, *QUICK)
    assert made.exit_code == 0, made.output
    assert made.stdout == ""
    line, copies = made.stderr.splitlines()
    assert "coreml/gpu-fp32: " in line
    assert "2 functions in 2 packages, iOS 17" in line
    assert "head-room" not in line
    assert copies == "iOS 17 opens one function a package: each of these holds a copy of the weights"
    assert json.loads(run("inspect", bundle, "--json").stdout)["coreml"][0]["parity"]["headroom"] is None
    assert "core ml gpu fp32" in run("inspect", bundle).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*COREML, "--profiles", "range"], "--profiles is of --target tensorrt and tensorrt-rtx; coreml has no such"),
        ([*COREML, "--compute-capability", "8.6"], "--compute-capability is of --target tensorrt and tensorrt-rtx;"),
        ([*COREML, "--timing-cache", "x"], "--timing-cache is of --target"),
        (["--target", "tensorrt", "--layout", "ane"], "--layout is of --target coreml; tensorrt has no such setting"),
        (["--target", "tensorrt-rtx", "--compress", "int8"], "--compress is of --target coreml; tensorrt-rtx has no"),
        (["--target", "tensorrt", "--ios", "18"], "--ios is of --target coreml"),
        (["--target", "tensorrt", "--budgets", "1"], "--budgets is of --target coreml"),
        (["--target", "tensorrt", "--license", "MIT"], "--license is of --target coreml"),
        ([*COREML, "--precision", "int8"], "unknown precision 'int8'; one of: fp16, fp32"),
        ([*COREML, "--precision", "fp32", "--compress", "lut4"], "--compress lut4 goes with --precision fp16"),
        ([*COREML, "--compress", "int4", "--ios", "17"], "--compress int4 needs --ios 18 or later"),
        ([*COREML, "--compress", "w8a8", "--ios", "16"], "--compress w8a8 needs --ios 17 or later"),
        ([*COREML, "--budgets", "1,x"], "--budgets '1,x': give numbers with commas between, such as 1,4,16"),
        ([*COREML, "--budgets", ","], "--budgets ',': give numbers"),
        ([*COREML, "--budgets", "1,3"], "budget 3 is not in this model's ladder: 1, 4"),
        ([*COREML, "--budgets", "0"], "0"),
        ([*COREML, "--budgets", "-4"], "-4"),
        ([*COREML, "--budgets", "99999"], "99999"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_the_bundle(bundle, arguments, words):
    before = contents(bundle)
    refused = run("compile", bundle, *arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert contents(bundle) == before


@pytest.mark.parametrize("option", [("--layout", "npu"), ("--compress", "lut2"), ("--ios", "15"), ("--ios", "x")])
def test_what_click_refuses(bundle, option):
    assert run("compile", bundle, *COREML, *option).exit_code == 2


@pytest.fixture
def without_coremltools(monkeypatch):
    """As if it were not installed: importing it fails, and nothing has it from before."""
    monkeypatch.setitem(sys.modules, "coremltools", None)
    library.coremltools.cache_clear()
    yield
    library.coremltools.cache_clear()


def test_without_coremltools_the_remedy_is_named(bundle, without_coremltools):
    before = contents(bundle)
    refused = run("compile", bundle, *QUICK)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: Core ML packages need coremltools")
    assert line.endswith("pip install 'elit-edge[coreml]'")
    assert contents(bundle) == before


def test_without_scikit_learn_the_remedy_is_named(bundle, monkeypatch):
    """As if it were not installed."""
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    before = contents(bundle)
    refused = run("compile", bundle, *COREML, "--compress", "lut4", "--budgets", "4")
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "need scikit-learn" in line
    assert contents(bundle) == before


def test_an_interrupt_says_so_and_leaves_the_bundle(bundle, monkeypatch):
    before, right = contents(bundle), package._save

    def save(emission, path, *others):
        if path.name.startswith("condition"):
            raise KeyboardInterrupt
        right(emission, path, *others)

    monkeypatch.setattr(package, "_save", save)
    stopped = run("compile", bundle, *QUICK)
    assert stopped.exit_code == 1
    assert stopped.stderr.strip() == "interrupted: nothing half-made was kept; run the command again"
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_packages_beyond_the_gate_are_refused_in_one_line(bundle, monkeypatch):
    """A gate that nothing passes."""
    monkeypatch.setitem(compiling.check.__globals__["GATES"], "fp32", {"exact": 1e-9})
    before = contents(bundle)
    refused = run("compile", bundle, *QUICK)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "the gate is 1e-09; they do not hold its weights" in line
    assert contents(bundle) == before


def cut(manifest):
    """Two budgets instead of sixteen."""
    kept = {None, 1, 16}
    dropped = {graph["path"] for graph in manifest["graphs"] if graph["latents"] not in kept}
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["latents"] in kept]
    manifest["ladder"] = [rung for rung in manifest["ladder"] if rung["latents"] in kept]
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name not in dropped}
    return dropped


@pytest.fixture(scope="module")
def whole(tiny_bundle_path, tmp_path_factory):
    """A real bundle of two budgets, with packages at one of them."""
    folder = Path(shutil.copytree(tiny_bundle_path, tmp_path_factory.mktemp("whole") / "tiny.elit"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in cut(manifest):
        (folder / name).unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made = run("compile", folder, *QUICK[:-1], "1")
    assert made.exit_code == 0, made.output
    return folder


def test_verify_evaluates_the_packages_beside_the_graphs(whole):
    result = run("verify", whole)
    assert result.exit_code == 0, result.output
    found = Bundle.open(whole).manifest.coreml[0].parity
    assert (
        f"core ml gpu fp32: worst {found.psnr_db:.1f} dB, relative RMS {found.stored:.1e} as stored (evaluated)"
        in result.stderr.splitlines()
    )
    assert "digests hold" in result.stderr


def test_verify_without_coremltools_says_what_it_did_not_do(whole, without_coremltools):
    result = run("verify", whole)
    assert result.exit_code == 0, result.output
    said = "core ml gpu fp32: not evaluated: coremltools is not installed; pip install 'elit-edge[coreml]'"
    assert said in result.stderr.splitlines()


def test_verify_refuses_a_damaged_package_whose_digests_were_mended(whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "tiny.elit"))
    path = copy / "coreml/gpu-fp32/latents_01.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 256] = bytes(256)
    path.write_bytes(data)
    reseal(copy)
    refused = run("verify", copy)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("error: ")


def test_a_precision_calibrated_afterwards_leaves_the_packages(whole, tmp_path, monkeypatch):
    """Weights of eight bits, which take no calibration set; what its proof would say is made up here."""
    verdict = Verdict(
        gate_db=35,
        pictures=0,
        steps=1,
        seed=0,
        features_sha256=None,
        budgets=(BudgetVerdict(latents=16, psnr_db=40, departure=None, loss=None, frechet=None),),
        speeds=(),
        size_ratio=0.5,
        device="none",
        faults=(),
    )
    monkeypatch.setattr(calibrating, "prove", lambda *_, **__: verdict)
    target = tmp_path / "eight.elit"
    calibrate(Bundle.open(whole), "w8", target, pictures=0)
    before, after = Bundle.open(whole).manifest, Bundle.open(target).manifest
    assert after.precisions == ("fp32", "w8")
    assert after.coreml == before.coreml
    packages = {name: data for name, data in contents(whole).items() if name.startswith("coreml/")}
    assert packages
    assert {n: d for n, d in contents(target).items() if n.startswith("coreml/")} == packages
