"""Finding runtimes: this package's own, those of other distributions, and what is said when they are not there."""

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from elit_edge import runtimes
from elit_edge.errors import RuntimeUnavailable
from elit_edge.runtimes.registry import all_runtimes, choose

HIDE = """
import importlib, importlib.machinery, importlib.metadata, importlib.util, pkgutil, sys

def hide(modules=(), distributions=()):
    '''Make the machine look as if these were not installed: to imports, to find_spec and to metadata.'''
    class Finder(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.split(".")[0] in modules else super().find_spec(name, path, target)

        @classmethod
        def find_distributions(cls, context=importlib.metadata.DistributionFinder.Context()):
            return (d for d in super().find_distributions(context) if d.metadata["Name"] not in distributions)

    at = sys.meta_path.index(importlib.machinery.PathFinder)
    sys.meta_path[at : at + 1] = [Finder]
"""


def in_fresh_python(code):
    """The words of a program run in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", HIDE + dedent(code)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution `acme` with one module, and with entry points into it, for the time of a test."""

    def installed(source, entry_points):
        (tmp_path / "acme_runtimes.py").write_text(dedent(source))
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[elit_edge.runtimes]\n" + "\n".join(entry_points))
        monkeypatch.syspath_prepend(tmp_path)
        all_runtimes.cache_clear()

    yield installed
    sys.modules.pop("acme_runtimes", None)
    all_runtimes.cache_clear()


ACME = """
    from elit_edge.runtimes.contract import Missing, Ready, Runtime

    class Abacus(Runtime):
        name = "abacus"
        def check(self):
            return Missing("no abacus is plugged in", "buy one at acme.example")
        def precisions(self, manifest):
            return ("fp32",)
        def prepare(self, files, precision, threads):
            raise AssertionError("never asked, as it is not ready")

    class Slide(Runtime):
        name = "slide-rule"
        def check(self):
            return Ready("1.0")
        def precisions(self, manifest):
            return ("fp32",)
        def prepare(self, files, precision, threads):
            return ("a session of", files, precision, threads)

    ABACUS, SLIDE = Abacus(), Slide()
"""
ACME_POINTS = ("abacus = acme_runtimes:ABACUS", "slide-rule = acme_runtimes:SLIDE")


def test_every_folder_of_the_runtimes_package_is_found():
    home = Path(runtimes.__file__).parent
    folders = sorted(path.parent.name for path in home.glob("*/__init__.py"))
    own = [each.name for folder in folders for each in importlib.import_module(f"elit_edge.runtimes.{folder}").RUNTIMES]
    assert len(set(own)) == len(own), "two runtimes share a name"
    assert {"onnxruntime", "reference", "tensorrt", "tensorrt-rtx"} <= set(own) <= set(all_runtimes())


def test_every_runtime_goes_by_its_own_name():
    assert {name: runtime.name for name, runtime in all_runtimes().items()} == {name: name for name in all_runtimes()}


def test_a_runtime_is_chosen_by_name():
    assert choose("onnxruntime").name == "onnxruntime"


@pytest.mark.parametrize("name", ["tensorflow", "", "ONNXRuntime", "onnxruntime_"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(RuntimeUnavailable, match=r"there are: auto, .*onnxruntime, .*reference") as caught:
        choose(name)
    assert repr(name) in str(caught.value)


def test_a_runtime_of_another_distribution_is_found_and_can_be_chosen(install):
    install(ACME, ACME_POINTS)
    assert {"abacus", "slide-rule", "onnxruntime", "reference"} <= set(all_runtimes())
    assert choose("slide-rule").prepare("files", "fp32", 3) == ("a session of", "files", "fp32", 3)


def test_a_missing_runtime_is_refused_with_reason_and_remedy(install):
    install(ACME, ACME_POINTS)
    with pytest.raises(RuntimeUnavailable, match=r"abacus .*no abacus is plugged in; buy one at acme\.example"):
        choose("abacus")


def test_an_unknown_name_is_told_the_runtimes_of_other_distributions_too(install):
    install(ACME, ACME_POINTS)
    with pytest.raises(RuntimeUnavailable, match=r"there are: auto, .*abacus, .*slide-rule"):
        choose("sextant")


def test_a_distribution_that_cannot_be_loaded_takes_no_other_runtime_down(install):
    install("import a_library_that_is_not_there", ["broken = acme_runtimes:RUNTIME"])
    assert choose("onnxruntime").name == "onnxruntime"
    with pytest.raises(RuntimeUnavailable, match=r"broken .*a_library_that_is_not_there.*acme"):
        choose("broken")


def test_every_backend_imports_where_its_library_is_not_installed():
    found = in_fresh_python("""
        libraries = {"onnxruntime", "torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "openvino", "tensorrt"}
        hide(libraries, libraries)
        from elit_edge import runtimes
        for module in pkgutil.iter_modules(runtimes.__path__, "elit_edge.runtimes."):
            importlib.import_module(module.name)
            print(module.name.rpartition(".")[2])
        assert not libraries & set(sys.modules)
    """)
    assert {"onnxruntime_", "openvino_", "reference", "registry", "contract"} <= set(found.split())


def test_a_library_that_is_not_installed_is_named_with_its_remedy():
    found = in_fresh_python("""
        libraries = {"onnxruntime", "openvino", "torch"}
        hide(libraries, libraries)
        from elit_edge.errors import RuntimeUnavailable
        from elit_edge.runtimes.registry import choose
        for name in ("onnxruntime", "openvino", "reference"):
            try:
                choose(name)
            except RuntimeUnavailable as error:
                print(error)
    """)
    onnxruntime, openvino, reference = found.splitlines()
    assert "the package onnxruntime is not installed; pip install onnxruntime" in onnxruntime
    assert "the package openvino is not installed; pip install 'elit-edge[openvino]'" in openvino
    assert "the package torch is not installed; pip install 'elit-edge[export]'" in reference


@pytest.mark.parametrize(
    ("name", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino"), ("reference", "torch")]
)
def test_a_library_of_another_distribution_name_is_ready(name, package):
    """onnxruntime-gpu and onnxruntime-openvino, for example, bring the module onnxruntime under their own name."""
    found = in_fresh_python(f"""
        hide(distributions={{"{package}"}})
        from elit_edge.runtimes.registry import all_runtimes
        print(type(all_runtimes()["{name}"].check()).__name__)
    """)
    assert found == "Ready"
